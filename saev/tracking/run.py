"""MLflow run: one per command, or none."""

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omegaconf import OmegaConf

from saev.stopping import is_asked

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger
    from mlflow import MlflowClient

    from saev.tracking.outbox import Entry, Outbox

log = logging.getLogger(__name__)

Status = Literal["FINISHED", "FAILED", "KILLED"]

PARENT_ENV = "SAEV_MLFLOW_PARENT_RUN_ID"
"""Environment variable with the run that a new run hangs under; a sweep sets it for its members."""


class Tracking:
    """What the commands know of tracking. This base class tracks nothing.

    ``start`` comes first and ``finish`` last. Only ``start`` raises: a store that goes away later is said
    once, and gets what was kept for it when it is back. In a distributed run only the main process tracks;
    the calls of the others do nothing.
    """

    run_id: str | None = None
    """The run's id in the store; None before ``start`` and where nothing is tracked."""

    def start(
        self,
        run_name: str,
        tags: Mapping[str, str],
        params: Mapping[str, Any],
        run_id: str | None = None,
    ) -> None:
        """Opens a run. ``params`` may be nested (a composed config); keys are joined with dots.

        With ``run_id`` an earlier run goes on: it is marked as running again, the tags are set and
        ``params`` are ignored, for a run's parameters cannot change.

        Raises ``UserError`` when the store cannot be opened or has no such run.
        """

    def lightning_logger(self) -> "Logger | None":
        """A logger for ``lightning.Trainer`` that writes into this run; None for no logger."""
        return None

    def log_metrics(self, metrics: Mapping[str, float | int], step: int | None = None) -> None:
        """Logs flat metrics, named ``stage/name``."""

    def log_artifact(self, path: str | Path, artifact_path: str | None = None) -> None:
        """Copies a file, or a folder with all it holds, into the run, under ``artifact_path``."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Sets or replaces tags."""

    def finish(self, status: Status = "FINISHED") -> None:
        """Closes the run. Never raises: it stands in the way of no error that is on its way."""

    @property
    def where(self) -> str | None:
        """The run's address on a server, or the command that opens the UI; None without a run."""
        return None

    @property
    def look(self) -> str:
        """What a command names at its end for a look at all runs; never a store's address, which may hold
        a password."""
        return "make ui"


class NoTracking(Tracking):
    """``logger=none``: results stay in the run folder."""


class MLflowTracking(Tracking):
    """A run in an MLflow store: a sqlite file by default, or whatever ``tracking_uri`` names.

    Nothing is opened, and mlflow not imported, before ``start``.
    """

    def __init__(
        self, tracking_uri: str, experiment_name: str, artifact_root: str | None = None
    ) -> None:
        from saev.tracking.mlflow_store import sqlite_path

        for name, value in (("tracking_uri", tracking_uri), ("experiment_name", experiment_name)):
            if not isinstance(value, str) or not value:
                raise ValueError(f"logger.{name} must be a non-empty string, got {value!r}")
        sqlite_path(tracking_uri)  # refuses what is no store before any work is done
        self.tracking_uri = tracking_uri
        self.experiment_name = experiment_name
        self.artifact_root = artifact_root
        self.experiment_id: str | None = None
        self.run_id: str | None = None
        self._run_dir: str | None = None

    @property
    def _client(self) -> "MlflowClient":
        from saev.tracking.mlflow_store import client

        return client(self.tracking_uri)

    def start(
        self,
        run_name: str,
        tags: Mapping[str, str],
        params: Mapping[str, Any],
        run_id: str | None = None,
    ) -> None:
        if not is_main_process():
            return
        from saev.tracking.mlflow_store import open_store
        from saev.tracking.provenance import provenance_tags

        tags = {**tags, **provenance_tags()}
        self._run_dir = tags.get("saev.run_dir")
        self.experiment_id = open_store(self.tracking_uri, self.experiment_name, self.artifact_root)
        if run_id is not None:
            self._resume(run_id, tags)
            return
        parent = os.environ.get(PARENT_ENV)
        nesting = {"mlflow.parentRunId": parent} if parent else {}
        run = self._client.create_run(
            self.experiment_id, run_name=run_name, tags=_cut_values({**tags, **nesting})
        )
        self.run_id = run.info.run_id
        self._log_params(run.info.run_id, params)

    def _resume(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.exceptions import MlflowException

        from saev.errors import UserError

        try:
            self._client.update_run(run_id, status="RUNNING")
        except MlflowException as error:
            raise UserError(
                f"there is no run {run_id} in {self.tracking_uri} to go on with: set "
                "logger.tracking_uri to the store it was logged to"
            ) from error
        self.run_id = run_id
        self.set_tags(tags)

    def _log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param
        from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_PARAMS_TAGS_PER_BATCH

        flat = flatten_params(params, MAX_PARAM_VAL_LENGTH)
        entities = [Param(key, value) for key, value in flat.items()]
        for chunk in _chunks(entities, MAX_PARAMS_TAGS_PER_BATCH):
            self._client.log_batch(run_id, params=chunk)

    def lightning_logger(self) -> "Logger | None":
        from lightning.pytorch.loggers.logger import DummyLogger

        from saev.tracking.lightning_logger import RunLogger

        if not is_main_process():
            return DummyLogger()
        assert self.run_id is not None, "start() comes first"
        return RunLogger(self)

    @cached_property
    def outbox(self) -> "Outbox":
        """What the store has not taken yet."""
        from saev.tracking.mlflow_store import is_server
        from saev.tracking.outbox import FRESH_SECONDS, Outbox, answers

        uri = self.tracking_uri
        fresh = FRESH_SECONDS if is_server(uri) else 0.0
        return Outbox(uri, self._deliver, lambda: answers(uri), fresh)

    def _deliver(self, entry: "Entry") -> None:
        from mlflow.entities import Metric

        from saev.tracking.outbox import short_of_patience

        run_id, content = str(self.run_id), entry.content
        if entry.kind == "artifact":
            path, place = content["path"], content["artifact_path"]
            send = self._client.log_artifacts if Path(path).is_dir() else self._client.log_artifact
            send(run_id, path, place)
            return
        with short_of_patience():
            match entry.kind:
                case "metrics":
                    when, step = content["time"], content["step"]
                    metrics = [Metric(k, v, when, step) for k, v in content["metrics"].items()]
                    self._client.log_batch(run_id, metrics=metrics)
                case "tags":
                    for key, value in content["tags"].items():
                        self._client.set_tag(run_id, key, value)
                case "status":
                    self._client.set_terminated(run_id, content["status"], content["time"])

    def log_metrics(self, metrics: Mapping[str, float | int], step: int | None = None) -> None:
        if self.run_id is None:
            return
        from mlflow.utils.validation import MAX_METRICS_PER_BATCH

        values = [(name, float(value)) for name, value in metrics.items()]
        for chunk in _chunks(values, MAX_METRICS_PER_BATCH):
            self.outbox.send("metrics", metrics=dict(chunk), step=step or 0, time=_now())

    def log_artifact(self, path: str | Path, artifact_path: str | None = None) -> None:
        if self.run_id is not None:
            self.outbox.send("artifact", path=str(path), artifact_path=artifact_path)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        if self.run_id is not None:
            self.outbox.send("tags", tags=_cut_values(tags))

    def finish(self, status: Status = "FINISHED") -> None:
        if self.run_id is None:
            return
        try:
            self.outbox.send("status", status=status, time=_now())
            self.outbox.close(self._run_dir)
        except Exception as error:
            log.warning("could not close the MLflow run %s as %s: %s", self.run_id, status, error)

    @property
    def where(self) -> str | None:
        if self.run_id is None or self.experiment_id is None:
            return None
        from saev.tracking.mlflow_store import where

        return where(self.tracking_uri, self.experiment_id, self.run_id)


def is_main_process() -> bool:
    """True in the one process that tracks, prints and writes; read from the launcher's variables.

    torchrun sets ``RANK``, Lightning's own launcher ``NODE_RANK`` and ``LOCAL_RANK``, Slurm
    ``SLURM_PROCID``. None of them set means a single process.
    """
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    names = ("NODE_RANK", "LOCAL_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in names)


def status_of(error: BaseException) -> Status:
    """KILLED when someone stopped the run, FAILED otherwise.

    Lightning answers Ctrl-C with ``SystemExit``, so the errors behind this one count too; and whoever
    signals a whole group of processes makes a loader's workers fail as well.
    """
    if is_asked():
        return "KILLED"
    while isinstance(error, SystemExit) and error.__context__ is not None:
        error = error.__context__
    return "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"


def flatten_params(params: Mapping[str, Any], max_length: int) -> dict[str, str]:
    """A nested config as ``{"model.k": "32"}``; lists stay whole, long values are cut (…)."""
    if OmegaConf.is_config(params):
        params = OmegaConf.to_container(params, resolve=True)  # type: ignore[assignment]
    flat = {}
    for key, value in leaves_of(params):
        text = "null" if value is None else str(value)
        flat[key] = text if len(text) <= max_length else text[: max_length - 1] + "…"
    return flat


def leaves_of(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of whatever is no mapping, and of empty mappings."""
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from leaves_of(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _cut_values(tags: Mapping[str, str]) -> dict[str, str]:
    limit = 5000  # what every MLflow server since 2.0 takes; today's limit is 8000
    return {key: str(value)[:limit] for key, value in tags.items()}


def _now() -> int:
    return int(time.time() * 1000)  # milliseconds, as MLflow counts


def _chunks(items: list[Any], size: int) -> Iterator[Sequence[Any]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]
