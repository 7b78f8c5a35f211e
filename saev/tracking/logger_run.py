"""A run behind one of Lightning's loggers, fed like the MLflow one: metrics, files, tags, an end."""

import logging
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from saev.errors import UserError, first_line
from saev.tracking.outbox import Entry, Outbox
from saev.tracking.run import Status, Tracking, is_main_process

if TYPE_CHECKING:
    import pandas as pd
    from lightning.pytorch.loggers import Logger

log = logging.getLogger(__name__)

IMAGES = (".png", ".jpg", ".jpeg")
TABLES = (".parquet", ".csv")
TEXTS = (".json", ".yaml", ".md", ".txt")
MOST_TEXT = 20_000
"""Characters of a text that are shown."""
MOST_ROWS = 10_000
"""Of a table that is shown; the limit of a W&B table."""

_STEP = re.compile(r"^step-0*(\d+)$")


class LoggerTracking(Tracking):
    """What runs behind Lightning's loggers have in common. Nothing is opened before ``start``.

    As with MLflow only ``start`` raises: what the logger does not take is said once, tried again, and left
    in ``untracked.jsonl`` in the run folder.
    """

    package: ClassVar[str]
    """What must be installed; also the name of the file in ``conf/logger``, and of the extra."""

    def __init__(self, save_dir: str) -> None:
        if not isinstance(save_dir, str) or not save_dir:
            raise ValueError(f"logger.save_dir must be a non-empty string, got {save_dir!r}")
        spec = find_spec(self.package)
        if spec is None or spec.origin is None:  # a folder that W&B has left can be imported too
            raise UserError(
                f"logger={self.package} needs the package {self.package}, which is not installed: "
                f"pip install 'saev-lightning[{self.package}]', or choose another logger"
            )
        self.save_dir = save_dir
        self.run_id = None
        self._logger: Logger | None = None
        self._run_dir: str | None = None

    def start(
        self,
        run_name: str,
        tags: Mapping[str, str],
        params: Mapping[str, Any],
        run_id: str | None = None,
    ) -> None:
        if not is_main_process():
            return
        from saev.tracking.provenance import provenance_tags

        tags = {**tags, **provenance_tags()}
        self._run_dir = tags.get("saev.run_dir")
        self._logger, self.run_id = self._open(run_name, tags, params, run_id)

    @abstractmethod
    def _open(
        self, run_name: str, tags: Mapping[str, str], params: Mapping[str, Any], run_id: str | None
    ) -> "tuple[Logger, str]":
        """Lightning's logger, and the run's id; raises ``UserError``."""

    @abstractmethod
    def _take(self, file: Path, name: str) -> None:
        """Takes one file; ``name`` is its path among the run's artifacts."""

    @abstractmethod
    def _take_tags(self, tags: Mapping[str, str]) -> None: ...

    @abstractmethod
    def _end(self, status: Status) -> None: ...

    def lightning_logger(self) -> "Logger | None":
        from lightning.pytorch.loggers.logger import DummyLogger

        from saev.tracking.lightning_logger import RunLogger

        return RunLogger(self) if is_main_process() else DummyLogger()

    @cached_property
    def outbox(self) -> Outbox:
        """What the logger has not taken yet."""
        return Outbox(f"of logger={self.package}", self._deliver, lambda: None)

    def _deliver(self, entry: Entry) -> None:
        assert self._logger is not None
        content = entry.content
        match entry.kind:
            case "metrics":
                self._logger.log_metrics(content["metrics"], content["step"])
            case "tags":
                self._take_tags(content["tags"])
            case "artifact":
                for file, name in artifact_files(Path(content["path"]), content["artifact_path"]):
                    self._take_or_say(file, name)
            case "status":
                self._end(content["status"])

    def _take_or_say(self, file: Path, name: str) -> None:
        """No waiting helps where a file's content cannot be shown, and other files come after it."""
        try:
            self._take(file, name)
        except OSError:  # a full disk: tried again
            raise
        except Exception as error:  # of the logger's package, of pandas, of Pillow
            log.warning(
                "logger=%s cannot show %s (%s); it is %s",
                self.package,
                name,
                first_line(error),
                file,
            )

    def _send(self, kind: str, **content: Any) -> None:
        if self._logger is not None:
            self.outbox.send(kind, **content)

    @property
    def look(self) -> str:
        return self.where or super().look

    def log_metrics(self, metrics: Mapping[str, float | int], step: int | None = None) -> None:
        self._send("metrics", metrics={k: float(v) for k, v in metrics.items()}, step=step or 0)

    def log_artifact(self, path: str | Path, artifact_path: str | None = None) -> None:
        self._send("artifact", path=str(path), artifact_path=artifact_path)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self._send("tags", tags={key: str(value) for key, value in tags.items()})

    def finish(self, status: Status = "FINISHED") -> None:
        if self._logger is not None:
            self._send("status", status=status)
            self.outbox.close(self._run_dir)
            self._logger = None


def artifact_files(path: Path, artifact_path: str | None) -> Iterator[tuple[Path, str]]:
    """A file, or every file of a folder, with its path among the run's artifacts, as MLflow has it."""
    place = f"{artifact_path}/" if artifact_path else ""
    if path.is_dir():
        for file in sorted(one for one in path.rglob("*") if one.is_file()):
            yield file, f"{place}{file.relative_to(path).as_posix()}"
    elif path.is_file():
        yield path, f"{place}{path.name}"
    else:
        raise FileNotFoundError(f"{path} is not there")


def series_of(name: str) -> tuple[str, int]:
    """Under which heading an artifact is shown, and at which step: ``figures/firing/step-0000200.png`` is
    step 200 of ``figures/firing``, anything else step 0 of its own name."""
    folder, _, stem = name.rpartition(".")[0].rpartition("/")
    found = _STEP.match(stem)
    return (
        (folder, int(found.group(1))) if found and folder else (f"{folder}/{stem}".lstrip("/"), 0)
    )


def shown_rows(file: Path, most: int) -> "pd.DataFrame | None":
    """The first rows of a table, its cells plain values; None for one of more than ``MOST_ROWS``, which
    no page shows well."""
    import pandas as pd

    frame = pd.read_csv(file) if file.suffix == ".csv" else pd.read_parquet(file)
    if len(frame) > MOST_ROWS:
        return None
    shown = frame.head(most).astype(object)
    return shown.where(shown.notna(), None)
