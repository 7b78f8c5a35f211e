"""A run as event files that TensorBoard shows: curves, figures, texts and the first rows of tables."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saev.errors import UserError
from saev.tracking.logger_run import (
    IMAGES,
    MOST_TEXT,
    TABLES,
    TEXTS,
    LoggerTracking,
    series_of,
    shown_rows,
)
from saev.tracking.run import Status, leaves_of

if TYPE_CHECKING:
    import pandas as pd
    from lightning.pytorch.loggers import Logger, TensorBoardLogger

ROWS = 20
"""Of each table: TensorBoard has no tables, and shows them as text."""


class TensorBoardTracking(LoggerTracking):
    """A folder of its own below ``save_dir`` for each run.

    TensorBoard keeps no files: images, texts and tables are shown, of others it lists where they are.
    """

    package = "tensorboard"

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir)
        self._params: dict[str, Any] = {}
        self._metrics: dict[str, float] = {}
        self._last_step = 0
        self._elsewhere: list[str] = []

    def _open(
        self, run_name: str, tags: Mapping[str, str], params: Mapping[str, Any], run_id: str | None
    ) -> "tuple[Logger, str]":
        from lightning.pytorch.loggers import TensorBoardLogger

        try:
            version = run_id or _own_folder(Path(self.save_dir), run_name)
            logger = TensorBoardLogger(self.save_dir, "", version, default_hp_metric=False)
            self._logger, self._params = logger, dict(params)
            self._take_tags(tags)
        except OSError as error:
            raise UserError(
                f"cannot write event files into {self.save_dir} ({error.strerror}): set logger.save_dir "
                "to a place that can be written"
            ) from error
        return logger, version

    @property
    def _writer(self) -> Any:
        logger: TensorBoardLogger = self._logger  # type: ignore[assignment]
        return logger.experiment

    def log_metrics(self, metrics: Mapping[str, float | int], step: int | None = None) -> None:
        super().log_metrics(metrics, step)
        step = step or 0
        if step > self._last_step:
            self._last_step, self._metrics = step, {}
        if step == self._last_step:
            self._metrics |= {key: float(value) for key, value in metrics.items()}

    def _take(self, file: Path, name: str) -> None:
        import numpy as np
        from PIL import Image

        heading, step = series_of(name)
        if file.suffix in IMAGES:
            with Image.open(file) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            self._writer.add_image(heading, pixels, step, dataformats="HWC")
        elif file.suffix in TABLES and (frame := shown_rows(file, ROWS)) is not None:
            self._writer.add_text(heading, as_markdown(frame), step)
        elif file.suffix in TEXTS:
            text = file.read_text(encoding="utf-8", errors="replace")[:MOST_TEXT]
            block = "".join(f"    {line}\n" for line in text.splitlines())
            self._writer.add_text(heading, text if file.suffix == ".md" else block, step)
        else:
            self._elsewhere.append(f"- {name}: `{file.resolve()}`")

    def _take_tags(self, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            self._writer.add_text(f"tags/{key}", str(value))

    def _end(self, status: Status) -> None:
        """Parameters beside the numbers of the last step make the table that compares runs."""
        from torch.utils.tensorboard.summary import hparams

        assert self._logger is not None
        if self._elsewhere:
            self._writer.add_text("files", "\n".join(self._elsewhere))
        self._writer.add_text("status", status)
        # Lightning would write the metrics a second time
        for summary in hparams(_plain(self._params), dict.fromkeys(self._metrics, 0)):
            self._writer.file_writer.add_summary(summary)
        self._logger.log_hyperparams(self._params)  # hparams.yaml
        self._logger.finalize("success")

    @property
    def where(self) -> str | None:
        return None if self.run_id is None else f"tensorboard --logdir {self.save_dir}"


def _plain(params: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys, and values that the table takes: numbers, flags and texts."""
    kinds = (bool, int, float, str)
    return {k: v if isinstance(v, kinds) else str(v) for k, v in leaves_of(params)}


def as_markdown(frame: "pd.DataFrame") -> str:
    """A table as TensorBoard's texts show it; cells are cut at 100 characters."""
    rows = [frame.columns, ["---"] * len(frame.columns), *frame.itertuples(index=False)]
    cells = [[" ".join(str(cell).replace("|", "/").split())[:100] for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _own_folder(root: Path, run_name: str) -> str:
    """A new folder for a run, numbered where its name is taken; members of a sweep start together."""
    name, number = re.sub(r"[^\w.,=+-]+", "-", run_name).strip("-.") or "run", 1
    while True:
        version = name if number == 1 else f"{name}-{number}"
        try:
            (root / version).mkdir(parents=True)
            return version
        except FileExistsError:
            number += 1
