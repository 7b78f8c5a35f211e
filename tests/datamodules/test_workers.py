"""The start method of worker processes."""

import ast
import multiprocessing
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from datamodules.workers import start_method

ROOT = Path(__file__).parents[2]


def test_without_workers_there_is_nothing_to_start() -> None:
    assert start_method(0) is None
    DataLoader([1, 2], num_workers=0, multiprocessing_context=start_method(0))


def test_a_method_that_is_not_python_s_own_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    own = multiprocessing.get_all_start_methods()
    for found, expected in (("loky", own[0]), (None, own[0]), ("spawn", "spawn")):
        monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none, m=found: m)
        assert start_method(2) == expected


@pytest.mark.slow
def test_in_a_process_of_joblib_a_loader_has_workers() -> None:
    joblib = pytest.importorskip("joblib")
    assert joblib.Parallel(n_jobs=2)(joblib.delayed(read_with_worker)(n) for n in (3, 4)) == [
        [0, 1, 2],
        [0, 1, 2, 3],
    ]


def read_with_worker(n: int) -> list[int]:
    assert multiprocessing.get_start_method() == "loky"
    loader = DataLoader(
        range(n), batch_size=None, num_workers=1, multiprocessing_context=start_method(1)
    )
    return list(loader)


def test_every_loader_with_workers_says_how_they_start() -> None:
    loaders = {
        f"{path.relative_to(ROOT)}:{node.lineno}": {
            word.arg: ast.unparse(word.value) for word in node.keywords
        }
        for package in ("saev", "callbacks", "datamodules")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("DataLoader")
    }
    assert len(loaders) > 2
    silent = [
        place
        for place, given in loaders.items()
        if given.get("num_workers") != "0"
        and not given.get("multiprocessing_context", "").startswith("start_method(")
    ]
    assert silent == []
