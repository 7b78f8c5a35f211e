"""Known truth: a short training on procedural scenes, described, judged attribute by attribute."""

import json
from pathlib import Path

import pytest

from benchmarks.scenes import coverage, judged
from tests.cli.commands import Run

pytestmark = pytest.mark.slow


def test_attribute_values_are_found_and_shuffled_labels_are_not(run: Run, tmp_path: Path) -> None:
    """600 scenes and 150 steps instead of 2,500 and 600, which find 97 % of the values."""
    train, atlas = tmp_path / "train", tmp_path / "atlas"
    few = ("trainer.accelerator=cpu", "images.n_images=600")
    assert run(
        "train", *few, f"hydra.run.dir={train}", "trainer.max_steps=150",
        "trainer.val_check_interval=150", "data.num_workers=0", "record.num_workers=0",
        "evaluation.figures=false", "evaluation.num_workers=0", "model.expansion=8",
    ) is None  # fmt: skip
    assert run(
        "describe", "+experiment=describe_scenes", *few, f"sae={train / 'sae'}",
        f"hydra.run.dir={atlas}", "atlas.num_workers=0", "atlas.baseline_images=0",
        "atlas.n_permutations=199", "atlas.n_map_permutations=99", "naming.proposers=[concept]",
        "pages.enabled=false",
    ) is None  # fmt: skip
    rows = judged(atlas / "latents")
    assert len(rows) == 39
    assert coverage(rows) >= 0.9
    textures = rows[rows["value"].str.startswith("texture=")]
    assert (textures["auroc"] > textures["any_object"]).mean() >= 0.5
    metrics = json.loads((atlas / "metrics.json").read_text())
    for kind in ("attribute", "mask"):
        assert metrics[f"concepts/scenes/{kind}/discoveries_shuffled"] <= 0.05
        assert metrics[f"concepts/scenes/{kind}/discoveries"] >= 0.5
