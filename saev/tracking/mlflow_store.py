"""MLflow store: the one place that opens it."""

import logging
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from saev.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow import MlflowClient

_SQLITE = "sqlite:///"
_DATABASES = ("postgresql", "mysql", "mssql")
_CONNECT_SECONDS = 4  # a server that is there answers its health page in milliseconds
_LOCK_SECONDS = 180  # creating a store takes about ten seconds, more on a busy machine


def open_store(tracking_uri: str, experiment_name: str, artifact_root: str | None = None) -> str:
    """The id of the experiment, after creating whatever was missing: folders, store, experiment.

    Several processes may open a store that does not exist yet at the same moment: one creates it,
    the others wait. A sqlite store appears under its name only when its schema is complete, so an
    interruption leaves nothing broken behind.

    ``artifact_root`` only matters when the experiment is new. Null means ``mlartifacts`` beside a
    sqlite file, ``outputs/mlartifacts`` for another database, and the server's own for a server.

    Raises ``UserError`` for a folder as store (MLflow has closed it), a server that does not
    answer within a few seconds, a file that is not an MLflow database, and a deleted experiment.
    """
    path = sqlite_path(tracking_uri)
    if path is None:
        if is_server(tracking_uri):
            check_server(tracking_uri)
        return _experiment_id(tracking_uri, experiment_name, artifact_root)
    with _locked(path):
        if not path.exists():
            _create_sqlite(path)
        root = artifact_root or str(path.parent / "mlartifacts")
        return _experiment_id(tracking_uri, experiment_name, root)


def sqlite_path(tracking_uri: str) -> Path | None:
    """The absolute path of a sqlite store's file, None for a server or another database."""
    if tracking_uri.startswith(_SQLITE):
        name = tracking_uri.removeprefix(_SQLITE).partition("?")[0]
        if name and name != ":memory:":
            return Path(name).absolute()
    elif tracking_uri.startswith(("http://", "https://", "databricks", *_DATABASES)):
        return None
    raise UserError(
        f"logger.tracking_uri={tracking_uri!r} is no store that several runs can share: use "
        "sqlite:///outputs/mlflow.db, or the http(s):// address of an MLflow server"
    )


def client(tracking_uri: str) -> "MlflowClient":
    """A client of the store, with MLflow's own log lines switched off: it also raises what it logs."""
    from mlflow import MlflowClient

    # a new store logs forty lines about schema migrations, one that is away a traceback for each call
    for name, level in (("mlflow", logging.CRITICAL), ("alembic", logging.WARNING),
                        ("urllib3.connectionpool", logging.ERROR)):  # fmt: skip
        logging.getLogger(name).setLevel(level)
    return MlflowClient(tracking_uri)


def where(tracking_uri: str, experiment_id: str, run_id: str) -> str:
    """How to look at the run: its address on a server, a command for a local store."""
    if is_server(tracking_uri):
        return f"{tracking_uri.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"
    if tracking_uri == f"{_SQLITE}outputs/mlflow.db":
        return "make ui"
    return f"python -m saev.tracking.ui --uri {tracking_uri}"


@contextmanager
def _locked(path: Path) -> "Iterator[None]":
    lock = FileLock(f"{path}.lock", timeout=_LOCK_SECONDS)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"another process has held {path}.lock for {_LOCK_SECONDS} s: end it and try again"
        ) from error
    except OSError as error:
        raise UserError(
            f"cannot write the MLflow store {path} ({error.strerror}): set logger.tracking_uri "
            "to a place that can be written"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _create_sqlite(path: Path) -> None:
    """Build the schema under another name and move it into place when it is complete."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    client(f"{_SQLITE}{partial}").search_experiments(max_results=1)
    partial.replace(path)


def _experiment_id(tracking_uri: str, name: str, artifact_root: str | None) -> str:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    if artifact_root is None and tracking_uri.startswith(_DATABASES):
        artifact_root = str(Path("outputs/mlartifacts").absolute())
    try:
        store = client(tracking_uri)
        experiment = store.get_experiment_by_name(name)
        if experiment is None:
            location = None if artifact_root is None else f"{artifact_root.rstrip('/')}/{name}"
            return store.create_experiment(name, artifact_location=location)
    except (
        MlflowException,
        SQLAlchemyError,
        ImportError,
    ) as error:  # without the database's driver
        raise UserError(
            f"cannot open the MLflow store {tracking_uri} ({_reason(error)}): set "
            "logger.tracking_uri to another one, or logger=none"
        ) from error
    if experiment.lifecycle_stage == "deleted":
        raise UserError(
            f"the experiment {name!r} in {tracking_uri} is deleted: restore it in the MLflow UI or "
            "choose another logger.experiment_name"
        )
    return experiment.experiment_id


def _reason(error: Exception) -> str:
    """The error's own words, without the SQL statement and the link that SQLAlchemy appends."""
    return " ".join(str(error).partition("[SQL:")[0].split())[:300]


def is_server(tracking_uri: str) -> bool:
    """Whether the store is reached over HTTP."""
    return tracking_uri.startswith(("http://", "https://"))


def check_server(uri: str) -> None:
    """Any answer will do, even a refusal; MLflow's own client would retry for minutes.

    Raises:
        UserError: none within four seconds.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    try:
        http_request(
            get_default_host_creds(uri),
            "/health",
            "GET",
            max_retries=0,
            timeout=_CONNECT_SECONDS,
            raise_on_status=False,
        )
    except (MlflowException, OSError) as error:
        raise UserError(
            f"no MLflow server answers at {uri}: start it, or set logger.tracking_uri, or run "
            "without tracking (logger=none)"
        ) from error
