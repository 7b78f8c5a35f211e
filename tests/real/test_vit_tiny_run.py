"""The whole job on a real ViT and real photographs, shortened to a minute or two."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DATA = Path(os.environ.get("SAEV_REAL_DATA", "../shared/data")).resolve()

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason="no real data at SAEV_REAL_DATA"),
]


def test_a_short_run_beats_its_controls(tmp_path: Path) -> None:
    """A fifth of the images and two fifths of the steps of ``+experiment=vit_tiny``."""
    done = subprocess.run(
        [
            sys.executable, "-m", "saev.train", "+experiment=vit_tiny", "logger=none",
            f"paths.outputs={tmp_path}", f"hydra.run.dir={tmp_path / 'run'}",
            "images.n_images=450", "trainer.max_steps=400", "trainer.val_check_interval=400",
            "evaluation.figures=false",
        ],
        capture_output=True, text=True, timeout=900, env={**os.environ, "SAEV_REAL_DATA": str(DATA)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert found["val/l0"] == 32
    assert (
        found["val/explained_variance"] > 0.45
    )  # 0.77 in the full run; PCA with 32 components 0.43
    # random atoms at the best length of their codes
    assert 0.5 < found["untrained/explained_variance"] < found["val/explained_variance"]
    assert found["untrained/l0"] == 32
    assert found["val/dead_fraction"] < 0.02
    assert found["val/dense_fraction"] < 0.05
    assert found["fidelity/kl_recovered"] > 0.6
    assert found["fidelity/kl/reconstructed"] < found["fidelity/kl/untrained"]
    (manifest,) = (tmp_path / "activations").glob("*/manifest.json")
    statistics = json.loads(manifest.read_text())["statistics"]
    outliers = 1 - statistics["n_normal"] / statistics["n_tokens"]
    assert 0.01 < outliers < 0.04  # the artefact tokens of late blocks
