"""Lightning's logger in a run that the command owns."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch.loggers import Logger


@runtime_checkable
class Tracks(Protocol):
    """What a fit needs of the command's tracking."""

    def log_metrics(self, metrics: Mapping[str, float | int], step: int | None = None) -> None: ...
    def log_artifact(self, path: str | Path, artifact_path: str | None = None) -> None: ...


class RunLogger(Logger):
    """Metrics and artifacts of a fit, by way of the command's tracking.

    Lightning's own MLflow logger would mark the run as finished after the fit, while the evaluation
    that belongs to the same run is still to come, and would end the fit when the store goes away.
    """

    def __init__(self, tracking: Tracks) -> None:
        super().__init__()
        self.tracking = tracking

    @property
    def name(self) -> str | None:
        return None  # files of Lightning's, if there are any, lie in the run folder

    @property
    def version(self) -> str | None:
        return None

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.tracking.log_metrics(metrics, step)

    def log_artifact(self, path: str | Path, artifact_path: str | None = None) -> None:
        """Copies a file into the run."""
        self.tracking.log_artifact(path, artifact_path)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the command has logged its config."""
