"""Sweeps on a real command line: one parent run, its members nested under it."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from callbacks.sweep import SweepParent
from saev.tracking import PARENT_ENV
from saev.tracking.mlflow_store import client

APP = Path(__file__).parents[1] / "fakes" / "app"


def sweep(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    drop = ("HYDRA_FULL_ERROR", "SAEV_SHORT_ERRORS", "LOCAL_RANK", "RANK", PARENT_ENV)
    command = [sys.executable, str(APP / "tiny.py"), "--config-dir", str(APP), "-m", *arguments]
    return subprocess.run(
        command, cwd=folder, env={k: v for k, v in os.environ.items() if k not in drop},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def runs_of(folder: Path) -> tuple:
    """The parent run and its members, in the order they started."""
    store = client(f"sqlite:///{folder}/outputs/mlflow.db")
    experiment = store.get_experiment_by_name("saev")
    assert experiment is not None
    runs = store.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1
    members = [run for run in runs if run is not parents[0]]
    ids = {run.data.tags["mlflow.parentRunId"] for run in members}
    assert ids == {parents[0].info.run_id}
    return parents[0], members


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher", [[], ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]], ids=["basic", "joblib"]
)
def test_one_parent_and_six_members_on_a_new_store(launcher: list[str], tmp_path: Path) -> None:
    done = sweep(tmp_path, "logger=mlflow", "k=1,2,3", "x=1.5,0.5", *launcher)
    assert (done.returncode, done.stderr) == (0, "")
    parent, members = runs_of(tmp_path)
    assert parent.info.status == "FINISHED"
    assert [member.info.status for member in members] == ["FINISHED"] * 6
    found = {(m.data.params["k"], m.data.params["x"]) for m in members}
    assert found == {(k, x) for k in "123" for x in ("1.5", "0.5")}
    assert parent.data.metrics["objective/best"] == 1.5
    best = int(parent.data.tags["saev.sweep.best_member"])
    assert "x=1.5" in parent.data.tags[f"saev.sweep.member.{best}"]


@pytest.mark.slow
def test_a_failing_member_fails_the_sweep_and_no_other_member(tmp_path: Path) -> None:
    done = sweep(tmp_path, "logger=mlflow", "k=0,1", "x=1,2")
    assert done.returncode == 1
    parent, members = runs_of(tmp_path)
    assert parent.info.status == "FAILED"
    statuses = {(m.data.params["k"], m.data.params["x"]): m.info.status for m in members}
    assert statuses == {
        ("0", "1"): "FAILED", ("0", "2"): "FAILED", ("1", "1"): "FINISHED", ("1", "2"): "FINISHED"
    }  # fmt: skip


@pytest.mark.slow
def test_a_stopped_sweep_is_marked_killed(tmp_path: Path) -> None:
    done = sweep(tmp_path, "logger=mlflow", "fail=terminate,null")
    assert done.returncode == 143
    parent, members = runs_of(tmp_path)
    assert parent.info.status == "KILLED"
    assert [member.info.status for member in members] == ["KILLED"]


def test_a_store_that_cannot_be_opened_stops_the_sweep_before_its_members(tmp_path: Path) -> None:
    done = sweep(tmp_path, "logger=mlflow", "logger.tracking_uri=./mlruns", "x=1,2")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("logger.tracking_uri='./mlruns' is no store")
    assert done.stderr.count("\n") == 1


def test_other_ranks_and_logger_none_do_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PARENT_ENV, raising=False)
    monkeypatch.chdir(tmp_path)
    callback = SweepParent("maximize")
    config = OmegaConf.create({"logger": {"_target_": "saev.tracking.NoTracking"}})
    callback.on_multirun_start(config)
    callback.on_multirun_end(config)
    monkeypatch.setenv("LOCAL_RANK", "1")
    callback.on_multirun_start(OmegaConf.create({"logger": {"_target_": "never.built"}}))
    callback.on_multirun_end(config)
    assert PARENT_ENV not in os.environ
    assert not list(tmp_path.iterdir())


def test_travels_to_worker_processes() -> None:
    assert pickle.loads(pickle.dumps(SweepParent("minimize"))).best_of == "minimize"


def test_refuses_an_unknown_direction() -> None:
    with pytest.raises(ValueError, match="direction must be 'maximize' or 'minimize', got 'up'"):
        SweepParent("up")
