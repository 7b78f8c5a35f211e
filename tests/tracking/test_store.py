"""The store: what is refused, and that opening it is safe."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from saev.errors import UserError
from saev.tracking import mlflow_store as store


@pytest.mark.parametrize(
    "uri", ["./mlruns", "file:///tmp/mlruns", "", "sqlite://", "sqlite:///:memory:", "mlflow.db"]
)
def test_refuses_what_runs_cannot_share(uri: str) -> None:
    with pytest.raises(UserError, match=r"sqlite:///outputs/mlflow\.db"):
        store.sqlite_path(uri)


def test_sqlite_path_is_absolute_and_servers_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert store.sqlite_path("sqlite:///outputs/mlflow.db") == tmp_path / "outputs/mlflow.db"
    assert store.sqlite_path(f"sqlite:///{tmp_path}/a.db") == tmp_path / "a.db"
    assert store.sqlite_path("http://localhost:5000") is None
    assert store.sqlite_path("postgresql://host/mlflow") is None


def test_where_names_the_page_or_the_command() -> None:
    assert store.where("sqlite:///outputs/mlflow.db", "1", "abc") == "make ui"
    assert "--uri sqlite:///other.db" in store.where("sqlite:///other.db", "1", "abc")
    page = store.where("http://host:5000/", "1", "abc")
    assert page == "http://host:5000/#/experiments/1/runs/abc"


def test_a_server_that_is_not_there_is_one_sentence_within_seconds() -> None:
    started = time.monotonic()
    with pytest.raises(
        UserError, match=r"no MLflow server answers at http://127\.0\.0\.1:9"
    ) as info:
        store.open_store("http://127.0.0.1:9", "saev")
    assert "\n" not in str(info.value)
    assert time.monotonic() - started < 30  # most of it is the import of mlflow


def test_opens_creates_and_finds_again(uri: str) -> None:
    first = store.open_store(uri, "saev")
    assert store.open_store(uri, "saev") == first
    assert store.open_store(uri, "other") != first
    path = store.sqlite_path(uri)
    assert path is not None
    location = store.client(uri).get_experiment(first).artifact_location
    assert location == str(path.parent / "mlartifacts/saev")
    assert not list(path.parent.glob("*.partial*"))


def test_a_deleted_experiment_is_refused(uri: str) -> None:
    store.client(uri).delete_experiment(store.open_store(uri, "unwanted"))
    with pytest.raises(UserError, match=r"'unwanted'.*is deleted"):
        store.open_store(uri, "unwanted")


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_text("not a database, but somebody's notes " * 40)
    before = path.read_bytes()
    with pytest.raises(UserError, match="file is not a database") as info:
        store.open_store(f"sqlite:///{path}", "saev")
    assert "SQL:" not in str(info.value)
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write the MLflow store .*file/sub/mlflow\.db"):
        store.open_store(f"sqlite:///{tmp_path}/file/sub/mlflow.db", "saev")


@pytest.mark.slow
def test_an_interrupted_creation_leaves_nothing_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mlflow.db"

    def interrupted(uri: str) -> None:
        Path(uri.removeprefix("sqlite:///")).write_text("half a schema")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store, "client", interrupted)
        store.open_store(f"sqlite:///{path}", "saev")
    assert not path.exists()
    assert store.open_store(f"sqlite:///{path}", "saev") == "1"


WRITER = """
import sys
from saev.tracking import MLflowTracking
tracking = MLflowTracking(sys.argv[1], "saev")
tracking.start("run", {}, {"a": 1})
for step in range(60):
    tracking.log_metrics({"m": step}, step=step)
tracking.finish()
"""


@pytest.mark.slow
def test_four_processes_open_a_new_store_and_write_at_once(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/outputs/mlflow.db"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, uri], stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    errors = [writer.communicate(timeout=300)[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 4, errors
    client = store.client(uri)
    experiments = [e for e in client.search_experiments() if e.name == "saev"]
    assert len(experiments) == 1
    runs = client.search_runs([experiments[0].experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * 4
    for run in runs:
        history = client.get_metric_history(run.info.run_id, "m")
        assert sorted(entry.step for entry in history) == list(range(60))
