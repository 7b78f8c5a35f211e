"""Odd images and folders of images: recorded, or refused by one sentence with their name."""

import json
import shutil
from pathlib import Path

import pytest

from tests.attacks.forked import Outcome, run_forked
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

QUICK = (
    "images=folder", "images.val_fraction=0.4", "backbone.layer=0", "record.num_workers=0",
    "trainer.accelerator=cpu", "tokens.n_per_image=4",
)  # fmt: skip
MOST_BYTES = 2e9


def record(root: str, cwd: Path, *overrides: str) -> Outcome:
    outcome = run_forked(["record", *QUICK, f"images.roots={root}", *overrides], cwd, timeout=30)
    assert "Traceback" not in outcome.stderr, outcome.stderr[-3000:]
    assert outcome.status in (0, 1), outcome
    assert outcome.peak_bytes < MOST_BYTES
    return outcome


def n_recorded(cwd: Path) -> tuple[int, int]:
    """Images in the tars, and images that the manifest lists as left out."""
    (manifest,) = (cwd / "outputs" / "activations").glob("*/manifest.json")
    content = json.loads(manifest.read_text())
    return sum(shard["n_images"] for shard in content["shards"]), len(content["skipped"])


def said(outcome: Outcome, *words: str) -> None:
    assert outcome.status == 1 and len(outcome.said) == 1, outcome
    for word in words:
        assert word in outcome.said[0]


def check_one(name: str, folder: Path) -> None:
    """The odd image among good ones, with broken images refused and then left out."""
    expected, write = ONE_IMAGE[name]
    root = good_folder(folder / "photos")
    write(root)
    outcome = record(quoted(root), folder)
    if outcome.status == 0:
        assert expected != REFUSED
        assert n_recorded(folder) == (GOOD + (expected == RECORDED), 0) or expected == EITHER
        return
    assert expected in (REFUSED, EITHER)
    said(outcome, "photos")
    shutil.rmtree(folder / "outputs", ignore_errors=True)
    again = record(quoted(root), folder, "images.on_error=skip")
    assert again.status == 0, again.said
    assert n_recorded(folder) in ((GOOD, 1), (GOOD, 0))


FAST = ("one_pixel", "half_a_png")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in ONE_IMAGE]
)
def test_an_odd_image_is_recorded_or_refused_by_name(name: str, tmp_path: Path) -> None:
    check_one(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_an_odd_folder_is_recorded_or_refused(name: str, tmp_path: Path) -> None:
    expected, change, roots = FOLDERS[name]
    root = good_folder(tmp_path / "photos")
    change(root)
    outcome = record(roots.format(root), tmp_path)
    assert (outcome.status == 0) == (expected == RECORDED), outcome.said
    if outcome.status:
        said(outcome)


@pytest.mark.slow
@pytest.mark.parametrize("name", ROOT_NAMES)
def test_a_folder_of_any_name_is_recorded(name: str, tmp_path: Path) -> None:
    root = good_folder(tmp_path / name)
    outcome = record(quoted(root), tmp_path)
    assert outcome.status == 0, outcome.said
    assert n_recorded(tmp_path) == (GOOD, 0)


def test_more_than_a_hundred_are_tried() -> None:
    assert len(ONE_IMAGE) + len(FOLDERS) + len(ROOT_NAMES) >= 140
    assert {expected for expected, _ in ONE_IMAGE.values()} == {RECORDED, REFUSED, LEFT_OUT, EITHER}
