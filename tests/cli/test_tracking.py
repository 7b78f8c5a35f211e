"""The run a command leaves in MLflow, and the shape of a sweep."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.commands import TINY, Run

pytestmark = pytest.mark.slow


def client(outputs: Path):
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{outputs / 'mlflow.db'}")


def runs_in(outputs: Path) -> list:
    store = client(outputs)
    experiment = store.get_experiment_by_name("saev")
    assert experiment is not None
    return store.search_runs([experiment.experiment_id])


def test_a_command_is_a_run(run: Run, tmp_path: Path) -> None:
    assert run("train", *TINY, "logger=mlflow", f"hydra.run.dir={tmp_path / 'run'}") is None
    (one,) = runs_in(tmp_path / "outputs")
    assert one.info.status == "FINISHED"
    assert one.data.params["model.k"] == "8"
    for metric in (
        "train/loss",
        "train/tokens_per_second",
        "val/explained_variance",
        "fidelity/kl_recovered",
    ):
        assert metric in one.data.metrics
    for tag in ("saev.verb", "saev.sha256.manifest", "saev.sha256.sae", "saev.version.torch"):
        assert tag in one.data.tags, sorted(one.data.tags)
    artifacts = {
        entry.path for entry in client(tmp_path / "outputs").list_artifacts(one.info.run_id)
    }
    assert {"config.yaml", "metrics.json", "figures", "sae", "checkpoints"} <= artifacts


def test_a_failed_command_is_a_failed_run(run: Run, tmp_path: Path) -> None:
    assert isinstance(run("train", *TINY, "logger=mlflow", "model.k=100000"), str)
    (one,) = runs_in(tmp_path / "outputs")
    assert one.info.status == "FAILED"


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_sweep_is_one_parent_with_its_members(tmp_path: Path, launcher: str) -> None:
    jobs = ("hydra.launcher.n_jobs=2",) if launcher == "joblib" else ()
    done = subprocess.run(
        [
            sys.executable, "-m", "saev.train", "-m", f"paths.outputs={tmp_path}",
            f"hydra/launcher={launcher}", *jobs, *(o for o in TINY if "model.k" not in o),
            "model.k=4,8,16", "seed=0,1", "evaluation.figures=false",
        ],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    runs = runs_in(tmp_path)
    parents = [one for one in runs if "mlflow.parentRunId" not in one.data.tags]
    assert len(parents) == 1 and len(runs) == 7
    members = [one for one in runs if one is not parents[0]]
    assert {one.data.tags["mlflow.parentRunId"] for one in members} == {parents[0].info.run_id}
    combinations = {(one.data.params["model.k"], one.data.params["seed"]) for one in members}
    assert len(combinations) == 6
    assert all(one.info.status == "FINISHED" for one in runs)
    best = max(one.data.metrics["val/explained_variance"] for one in members)
    assert parents[0].data.metrics["objective/best"] == pytest.approx(best)
