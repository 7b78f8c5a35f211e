"""Launchers of sweeps with everything else as a user gets it, worker processes included."""

import subprocess
import sys
from pathlib import Path

import pytest

from saev.sae import SparseAutoencoder


@pytest.mark.slow
def test_jobs_of_joblib_have_workers(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "saev.train", "-m", "+experiment=smoke", "hydra/launcher=joblib",
            "seed=0,1", f"paths.outputs={tmp_path}",
        ],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    dictionaries = sorted((tmp_path / "sweeps").rglob("sae/config.json"))
    assert len(dictionaries) == 2
    one, two = (SparseAutoencoder.from_pretrained(path.parent) for path in dictionaries)
    assert not one.W_dec.equal(two.W_dec)
