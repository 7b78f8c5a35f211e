"""Hundreds of files of a stranger through the real commands: each is refused in one sentence."""

from pathlib import Path

import pytest

from tests.attacks.foreign_files import EXPORTS, Case, evaluate, evaluate_head, foreign_cases, train
from tests.attacks.side_files import side_cases
from tests.fakes.commands import assert_sentence, in_process
from tests.fakes.forked import run_forked

CASES = [*foreign_cases(), *side_cases()]
MOST_BYTES = 2 << 30
"""Of resident memory, the 0.6 GB of the warm process included."""


FEW = [
    next(case for case in CASES if case.name[4:].startswith(kind))
    for kind in ("topk", "spec", "images named", "weights", "head", "recording", "images sparse",
                 "hypothesis", "atlas", "side", "sweep")
]  # fmt: skip
"""One of each kind, for the fast suite."""


def test_there_are_hundreds_of_them() -> None:
    assert len(CASES) >= 600
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", FEW, ids=[case.name for case in FEW])
def test_one_of_each_kind(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    assert_sentence(in_process(*case.make(tmp_path)))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_it_is_refused_in_one_sentence(case: Case, tmp_path: Path) -> None:
    folder = tmp_path / "where"
    folder.mkdir()
    argv = case.make(folder)
    given = {path.name for path in folder.iterdir()}
    outcome = run_forked(argv, folder, timeout=60)
    assert outcome.sentence is not None, outcome
    assert len(outcome.sentence) < 1500
    assert outcome.peak_bytes < MOST_BYTES
    assert {path.name for path in folder.iterdir()} - given <= {"outputs"}, (
        "nothing ran or was made"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "argv",
    [evaluate(EXPORTS / "topk"), evaluate_head(EXPORTS / "head"), train(EXPORTS / "recording")],
    ids=["dictionary", "head", "recording"],
)
def test_the_files_that_were_changed_are_good(argv: list[str], tmp_path: Path) -> None:
    assert run_forked(argv, tmp_path).status == 0
