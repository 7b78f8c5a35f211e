"""Odd images and folders of images: recorded, or refused by one sentence with their name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.attacks.image_files import (
    EITHER,
    FOLDERS,
    GOOD,
    LEFT_OUT,
    ONE_IMAGE,
    RECORDED,
    REFUSED,
    ROOT_NAMES,
    good_folder,
    quoted,
)
from tests.fakes.commands import in_process
from tests.fakes.forked import Outcome, run_forked

QUICK = (
    "images=folder", "images.val_fraction=0.4", "backbone.layer=0", "record.num_workers=0",
    "trainer.accelerator=cpu", "tokens.n_per_image=4",
)  # fmt: skip
MOST_BYTES = 2e9


Run = Callable[[list[str], Path], Outcome]


def forked(argv: list[str], cwd: Path) -> Outcome:
    return run_forked(argv, cwd, timeout=30)


def here(argv: list[str], cwd: Path) -> Outcome:
    """In the process of the tests, which spares the start of another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        patch.delenv("HYDRA_FULL_ERROR", raising=False)
        code = in_process(*argv)
    return Outcome(1, "", code, 0) if isinstance(code, str) else Outcome(code or 0, "", "", 0)


def record(root: str, cwd: Path, *overrides: str, run: Run = forked) -> Outcome:
    """Of a status that is 0, or 1 with one sentence."""
    outcome = run(["record", *QUICK, f"images.roots={root}", *overrides], cwd)
    assert outcome.status == 0 or outcome.sentence is not None, outcome
    assert outcome.peak_bytes < MOST_BYTES
    return outcome


def n_recorded(cwd: Path) -> tuple[int, int]:
    """Images in the tars, and images that the manifest lists as left out."""
    (manifest,) = (cwd / "outputs" / "activations").glob("*/manifest.json")
    content = json.loads(manifest.read_text())
    return sum(shard["n_images"] for shard in content["shards"]), len(content["skipped"])


def check_one(name: str, folder: Path, run: Run) -> None:
    """The odd image among good ones, with broken images refused and then left out."""
    expected, write = ONE_IMAGE[name]
    root = good_folder(folder / "photos")
    write(root)
    outcome = record(quoted(root), folder, run=run)
    if outcome.status == 0:
        assert expected != REFUSED
        assert n_recorded(folder) == (GOOD + (expected == RECORDED), 0) or expected == EITHER
        return
    assert expected in (REFUSED, EITHER)
    assert outcome.sentence is not None and "photos" in outcome.sentence
    if name == "not_utf8":
        return  # no manifest could say which image was left out
    shutil.rmtree(folder / "outputs", ignore_errors=True)
    again = record(quoted(root), folder, "images.on_error=skip", run=run)
    assert again.status == 0, again.stderr
    assert n_recorded(folder) in ((GOOD, 1), (GOOD, 0))


FAST = ("one_pixel", "half_a_png")


def marks(name: str) -> list[pytest.MarkDecorator]:
    return [] if name in FAST else [pytest.mark.slow]


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in ONE_IMAGE])
def test_an_odd_image_is_recorded_or_refused_by_name(name: str, tmp_path: Path) -> None:
    check_one(name, tmp_path, here if name in FAST else forked)


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_an_odd_folder_is_recorded_or_refused(name: str, tmp_path: Path) -> None:
    expected, change, roots = FOLDERS[name]
    root = good_folder(tmp_path / "photos")
    change(root)
    outcome = record(roots.format(root), tmp_path)
    assert (outcome.status == 0) == (expected == RECORDED), outcome.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ROOT_NAMES)
def test_a_folder_of_any_name_is_recorded(name: str, tmp_path: Path) -> None:
    root = good_folder(tmp_path / name)
    outcome = record(quoted(root), tmp_path)
    assert outcome.status == 0, outcome.stderr
    assert n_recorded(tmp_path) == (GOOD, 0)


def test_more_than_a_hundred_are_tried() -> None:
    assert len(ONE_IMAGE) + len(FOLDERS) + len(ROOT_NAMES) >= 140
    assert {expected for expected, _ in ONE_IMAGE.values()} == {RECORDED, REFUSED, LEFT_OUT, EITHER}
