"""A recording, a dictionary trained on it and its evaluation, through the files they leave."""

import json
from pathlib import Path

import pytest

from datamodules.activations import Manifest
from saev.sae import SparseAutoencoder
from tests.fakes.commands import Run


def test_leaves_what_scripts_rely_on(trained: Path) -> None:
    run = trained / "run"
    left = {path.name for path in run.iterdir()}
    assert {"sae", "metrics.json", "config.yaml", "checkpoints", "figures"} <= left
    (recording,) = (trained / "outputs" / "activations").iterdir()
    sae = SparseAutoencoder.from_pretrained(run / "sae")
    manifest = Manifest.read(recording)
    assert sae.cfg.d_model == manifest.width and sae.cfg.d_sae == 2 * manifest.width
    assert {path.name for path in (run / "checkpoints").glob("*.ckpt")} == {
        "best.ckpt",
        "last.ckpt",
    }


def test_an_evaluation_repeats_what_training_measured(
    run: Run, trained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "again"
    sae = f"sae={trained / 'run' / 'sae'}"
    assert run("evaluate", sae, "trainer.accelerator=cpu", f"hydra.run.dir={out}") is None
    found = json.loads((out / "metrics.json").read_text())
    measured = json.loads((trained / "run" / "metrics.json").read_text())
    shared = {key for key in found if key.startswith(("val/", "fidelity/")) and key in measured}
    assert len(shared) > 10
    for key in shared:
        assert found[key] == pytest.approx(measured[key], rel=1e-3, abs=1e-4), key
