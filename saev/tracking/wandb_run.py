"""A run of Weights & Biases, online or in files for ``wandb sync``."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saev.errors import UserError, first_line
from saev.tracking.logger_run import (
    IMAGES,
    MOST_ROWS,
    TABLES,
    LoggerTracking,
    series_of,
    shown_rows,
)
from saev.tracking.run import Status

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger, WandbLogger

MODES = ("online", "offline", "disabled")


class WandbTracking(LoggerTracking):
    """A run in ``project``; its files become one artifact, in the folders that MLflow has, when it ends.

    Figures and tables of at most ``MOST_ROWS`` rows are shown in the workspace too.

    Args:
        project: where the run is shown; created if need be.
        entity: user or team; None: that of the login.
        mode: "online", "offline" or "disabled"; None: as WANDB_MODE says, else online.
        save_dir: W&B writes into ``wandb/`` in it.
    """

    package = "wandb"

    def __init__(
        self, project: str, save_dir: str, entity: str | None = None, mode: str | None = None
    ) -> None:
        if not isinstance(project, str) or not project:
            raise ValueError(f"logger.project must be a non-empty string, got {project!r}")
        if mode is not None and mode not in MODES:
            raise ValueError(f"logger.mode must be one of {', '.join(MODES)} or null, got {mode!r}")
        super().__init__(save_dir)
        self.project, self.entity = project, entity
        self.mode = mode or os.environ.get("WANDB_MODE", "online")
        self._artifact: Any = None
        self._where: str | None = None

    def _open(
        self, run_name: str, tags: Mapping[str, str], params: Mapping[str, Any], run_id: str | None
    ) -> "tuple[Logger, str]":
        import wandb  # pyright: ignore[reportMissingImports]
        from lightning.pytorch.loggers import WandbLogger

        Path(self.save_dir).mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(console="off", silent=True)
        try:
            run = wandb.init(
                project=self.project, entity=self.entity, mode=self.mode, dir=self.save_dir,  # type: ignore[arg-type]
                name=run_name, id=run_id, resume="must" if run_id else None,
                job_type=tags.get("saev.verb"), config={**params, "tags": dict(tags)},
                reinit="create_new", settings=settings,
            )  # fmt: skip
        except wandb.Error as error:
            raise UserError(
                f"Weights & Biases does not take the run ({first_line(error)}): run `wandb login`, or set "
                "logger.mode=offline, or choose another logger"
            ) from error
        # Lightning does the same for runs that it opens itself
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        self._where = f"wandb sync {run.settings.sync_dir}" if run.offline else run.url
        self._artifact = wandb.Artifact(f"run-{run.id}", type="run")
        return WandbLogger(experiment=run, project=self.project, save_dir=self.save_dir), run.id

    @property
    def _run(self) -> Any:
        logger: WandbLogger = self._logger  # type: ignore[assignment]
        return logger.experiment

    def _take(self, file: Path, name: str) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        self._artifact.add_file(str(file), name, overwrite=True)
        heading, step = series_of(name)
        shown: Any = None
        if file.suffix in IMAGES:
            shown = wandb.Image(str(file))
        elif file.suffix in TABLES and (frame := shown_rows(file, MOST_ROWS)) is not None:
            shown = wandb.Table(dataframe=frame, allow_mixed_types=True)
        if shown is not None:
            at = {"trainer/global_step": step} if step else {}
            self._run.log({heading: shown, **at})

    def _take_tags(self, tags: Mapping[str, str]) -> None:
        self._run.config.update(
            {"tags": {**self._run.config.get("tags", {}), **tags}}, allow_val_change=True
        )

    def _end(self, status: Status) -> None:
        self._run.summary["status"] = status
        self._run.log_artifact(self._artifact)
        self._run.finish(exit_code=0 if status == "FINISHED" else 1)

    @property
    def where(self) -> str | None:
        return None if self.mode == "disabled" else self._where
