"""A store that goes away, is locked, comes back, or refuses."""

import json
import logging
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE

from saev.tracking import MLflowTracking, outbox
from saev.tracking.mlflow_store import client
from saev.tracking.outbox import LEFT_OVER, Entry, Outbox


class Store:
    """Takes entries while ``error`` is None."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.taken: list[Entry] = []
        self.n_asked = 0

    def answers(self) -> None:
        self.n_asked += 1

    def deliver(self, entry: Entry) -> None:
        if self.error is not None:
            raise self.error
        self.taken.append(entry)

    def outbox(self) -> Outbox:
        return Outbox("http://there", self.deliver, self.answers)


@pytest.fixture(autouse=True)
def heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "saev")


def test_what_a_store_could_not_take_it_gets_in_order_when_it_is_back(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    now = 1000.0
    monkeypatch.setattr(outbox.time, "monotonic", lambda: now)
    store = Store()
    box = store.outbox()
    box.send("tags", tags={"a": "b"})
    store.error = MlflowException("gone", TEMPORARILY_UNAVAILABLE)
    asked = []
    for number in range(100):
        box.send("metrics", number=number)
        asked.append(store.n_asked)
        now += 1
    assert len(box) == 100
    # at second 0, after 30 more and after 60 more: not at every entry
    assert (asked[0], asked[29], asked[30], asked[89], asked[90], asked[99]) == (2, 2, 3, 3, 4, 4)
    assert caplog.text.count("does not answer") == 1
    store.error = None
    now += 200
    box.send("status", status="FINISHED")
    box.close(tmp_path)
    assert [entry.kind for entry in store.taken] == ["tags", *["metrics"] * 100, "status"]
    assert [e.content["number"] for e in store.taken[1:-1]] == list(range(100))
    assert "answers again" in caplog.text
    assert not (tmp_path / LEFT_OVER).exists()


def test_what_it_never_takes_stays_in_the_run_folder(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    store = Store()
    store.error = ConnectionRefusedError("Connection refused")
    box = store.outbox()
    box.send("metrics", metrics={"train/loss": float("nan"), "val/l0": 3.0}, step=7, time=5)
    box.send("status", status="FINISHED", time=6)
    box.close(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / LEFT_OVER).read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["metrics", "status"]
    assert lines[0]["metrics"]["val/l0"] == 3 and lines[0]["step"] == 7
    assert f"2 entries are in {tmp_path / LEFT_OVER}" in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    "refusal",
    [MlflowException("bad name", INVALID_PARAMETER_VALUE), FileNotFoundError("no such file")],
)
def test_what_it_refuses_is_said_and_does_not_stand_in_the_way(
    refusal: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store()
    box = store.outbox()
    store.error = refusal
    box.send("metrics", number=1)
    store.error = None
    box.send("metrics", number=2)
    assert [entry.content["number"] for entry in store.taken] == [2]
    assert caplog.text.count("refused") == 1 and len(box) == 0


def test_a_locked_store_costs_seconds_and_no_metric(
    uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outbox, "LOCKED_SECONDS", 0.05)
    tracking = MLflowTracking(uri, "saev")
    tracking.start("locked", {}, {})
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as other:
        other.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        for step in range(20):
            tracking.log_metrics({"train/loss": step}, step)
        tracking.set_tags({"saev.sha256.sae": "ff"})
        assert time.monotonic() - started < 5
        assert len(tracking.outbox) == 21
        other.rollback()
    tracking.finish("FINISHED")
    assert caplog.text.count("does not answer (database is locked)") == 1
    store = client(uri)
    assert tracking.run_id is not None
    history = store.get_metric_history(tracking.run_id, "train/loss")
    assert [(entry.step, entry.value) for entry in history] == [(n, n) for n in range(20)]
    run = store.get_run(tracking.run_id)
    assert run.data.tags["saev.sha256.sae"] == "ff" and run.info.status == "FINISHED"


def test_a_store_that_is_deleted_is_not_written_to_any_more(
    uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import shutil

    copy = tmp_path / "mlflow.db"
    shutil.copyfile(uri.removeprefix("sqlite:///"), copy)
    tracking = MLflowTracking(f"sqlite:///{copy}", "saev")
    tracking.start("gone", {"saev.run_dir": str(tmp_path)}, {})
    copy.unlink()
    tracking.log_metrics({"train/loss": 1.0}, 1)
    tracking.log_artifact(tmp_path, "all")
    tracking.finish("FINISHED")
    assert not copy.exists()
    assert len((tmp_path / LEFT_OVER).read_text().splitlines()) == 3
    assert f"{copy} is gone" in caplog.text


def test_mlflow_s_patience_is_short_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import os

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    with outbox.short_of_patience():
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "5"
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "10"
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ


def test_a_server_that_has_just_answered_is_not_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(outbox.time, "monotonic", lambda: now)
    store = Store()
    box = Outbox("http://there", store.deliver, store.answers, fresh_seconds=5.0)
    asked = []
    for kind in ("metrics", "metrics", "artifact", "metrics"):
        box.send(kind)
        asked.append(store.n_asked)
    now += 6
    box.send("metrics")
    assert [*asked, store.n_asked] == [1, 1, 2, 2, 3]
