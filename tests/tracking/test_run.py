"""A run's life in a real sqlite store, and its absence."""

import subprocess
import sys
from pathlib import Path

import pytest
from lightning.pytorch.loggers.logger import DummyLogger
from omegaconf import OmegaConf

from saev.errors import UserError
from saev.tracking import PARENT_ENV, MLflowTracking, NoTracking, status_of
from saev.tracking.mlflow_store import client
from saev.tracking.run import flatten_params


@pytest.fixture
def tracking(uri: str) -> MLflowTracking:
    return MLflowTracking(uri, "saev")


def data_of(tracking: MLflowTracking):
    assert tracking.run_id is not None
    return client(tracking.tracking_uri).get_run(tracking.run_id)


def test_a_run_from_start_to_finish(tracking: MLflowTracking, tmp_path: Path) -> None:
    tracking.start("first", {"saev.verb": "train"}, {"model": {"k": 32}, "name": None})
    tracking.log_metrics({"val/l0": 32, "val/nmse": 0.25}, step=7)
    (tmp_path / "metrics.json").write_text("{}")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/a.png").write_bytes(b"png")
    tracking.log_artifact(tmp_path / "metrics.json")
    tracking.log_artifact(tmp_path / "figures", "figures")
    tracking.set_tags({"saev.sha256.manifest": "ff" * 32})
    assert data_of(tracking).info.status == "RUNNING"
    tracking.finish("FINISHED")
    run = data_of(tracking)
    assert (run.info.run_name, run.info.status) == ("first", "FINISHED")
    assert run.data.params == {"model.k": "32", "name": "null"}
    assert run.data.metrics == {"val/l0": 32.0, "val/nmse": 0.25}
    assert run.data.tags["saev.verb"] == "train"
    assert run.data.tags["saev.sha256.manifest"] == "ff" * 32
    assert "mlflow.parentRunId" not in run.data.tags
    artifacts = Path(str(run.info.artifact_uri))
    assert (artifacts / "metrics.json").is_file()
    assert (artifacts / "figures/a.png").is_file()
    assert tracking.where is not None and "saev.tracking.ui" in tracking.where


def test_many_and_long_parameters_and_metrics_fit(tracking: MLflowTracking) -> None:
    params = {f"p{i}": i for i in range(250)} | {"roots": ["/photos"] * 2000}
    tracking.start("wide", {"note": "x" * 9000}, params)
    tracking.log_metrics({f"m/{i}": i for i in range(1500)} | {"val/nan": float("nan")})
    run = data_of(tracking)
    assert len(run.data.params) == 251
    assert run.data.params["roots"].endswith("…")
    assert run.data.metrics["m/1499"] == 1499
    tracking.finish("FAILED")
    assert data_of(tracking).info.status == "FAILED"


def test_a_member_of_a_sweep_hangs_under_its_parent(
    tracking: MLflowTracking, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking.start("parent", {}, {})
    assert tracking.run_id is not None
    monkeypatch.setenv(PARENT_ENV, tracking.run_id)
    member = MLflowTracking(uri, "saev")
    member.start("member", {}, {})
    assert data_of(member).data.tags["mlflow.parentRunId"] == tracking.run_id


def test_going_on_with_a_run_keeps_its_parameters(tracking: MLflowTracking, uri: str) -> None:
    tracking.start("stopped", {}, {"seed": 0, "ckpt_path": None})
    tracking.finish("KILLED")
    again = MLflowTracking(uri, "saev")
    again.start("ignored", {"resumed": "yes"}, {"ckpt_path": "last.ckpt"}, run_id=tracking.run_id)
    run = data_of(again)
    assert again.run_id == tracking.run_id
    assert run.info.status == "RUNNING"
    assert run.data.params["ckpt_path"] == "null"
    assert run.data.tags["resumed"] == "yes"
    with pytest.raises(UserError, match="there is no run 0123"):
        again.start("none", {}, {}, run_id="0123")


def test_the_lightning_logger_writes_into_the_run_and_leaves_its_end_alone(
    tracking: MLflowTracking,
) -> None:
    tracking.start("fit", {}, {})
    logger = tracking.lightning_logger()
    assert logger is not None
    logger.log_hyperparams({"not": "logged"})
    logger.log_metrics({"train/loss": 1.5}, step=3)
    logger.finalize("success")
    run = data_of(tracking)
    assert run.data.metrics == {"train/loss": 1.5}
    assert run.data.params == {}
    assert run.info.status == "RUNNING"


def test_finish_never_raises(
    tracking: MLflowTracking, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking.start("gone", {}, {})
    monkeypatch.setattr(MLflowTracking, "_client", property(lambda self: 1 / 0))
    with pytest.raises(RuntimeError, match="the original"):
        try:
            raise RuntimeError("the original")
        finally:
            tracking.finish("FAILED")
    assert "does not answer (division by zero)" in caplog.text
    assert "never came back: 1 entries are lost" in caplog.text


@pytest.mark.parametrize("variable", ["RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"])
def test_only_the_main_process_tracks(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    tracking = MLflowTracking(f"sqlite:///{tmp_path}/mlflow.db", "saev")
    tracking.start("rank one", {}, {})
    tracking.log_metrics({"a": 1.0})
    tracking.log_artifact(tmp_path / "missing")
    tracking.set_tags({"a": "b"})
    assert isinstance(tracking.lightning_logger(), DummyLogger)
    tracking.finish()
    assert tracking.run_id is None and tracking.where is None
    assert not list(tmp_path.iterdir())


def test_no_tracking_does_nothing(tmp_path: Path) -> None:
    tracking = NoTracking()
    tracking.start("none", {}, {})
    tracking.log_metrics({"a": 1.0})
    tracking.log_artifact(tmp_path / "missing")
    tracking.set_tags({"a": "b"})
    tracking.finish()
    assert tracking.run_id is None and tracking.lightning_logger() is None


def test_constructor_refuses_before_any_work() -> None:
    with pytest.raises(UserError, match="mlruns"):
        MLflowTracking("./mlruns", "saev")
    with pytest.raises(ValueError, match=r"experiment_name must be a non-empty string, got ''"):
        MLflowTracking("sqlite:///a.db", "")


def test_flatten_params_takes_configs_and_cuts() -> None:
    cfg = OmegaConf.create({"a": {"b": [1, 2], "c": {}}, "d": "${a.b}", "long": "x" * 50})
    assert flatten_params(cfg, 10) == {
        "a.b": "[1, 2]",
        "a.c": "{}",
        "d": "[1, 2]",
        "long": "x" * 9 + "…",
    }


def test_status_of_sees_an_interrupt_behind_lightnings_exit() -> None:
    assert status_of(ValueError()) == "FAILED"
    assert status_of(KeyboardInterrupt()) == "KILLED"
    assert status_of(SystemExit(1)) == "FAILED"
    try:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)
    except SystemExit as error:
        assert status_of(error) == "KILLED"


def test_importing_tracking_imports_neither_mlflow_nor_lightning() -> None:
    code = (
        "import sys; from saev.tracking import MLflowTracking;"
        "MLflowTracking('sqlite:///a.db', 'e');"
        "print(sorted({'mlflow', 'lightning', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
