"""One MLflow parent run around the members of a Hydra sweep."""

import atexit
import logging
import math
import os
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.utils import instantiate
from omegaconf import DictConfig

from saev.errors import first_line
from saev.tracking import PARENT_ENV, MLflowTracking, Tracking, is_main_process
from saev.tracking.run import Status

log = logging.getLogger(__name__)

OBJECTIVE = "objective"


class SweepParent(Callback):
    """Opens a parent run before the first member starts and closes it after the last.

    Opening the store here, once, also means that members starting together find it complete. The
    members learn of their parent through an environment variable, which workers of any local
    launcher inherit. What a member returns is logged to the parent as ``objective``, at the step
    that is the member's number; the best one becomes ``objective/best``.
    """

    def __init__(self, direction: str) -> None:
        if direction not in ("maximize", "minimize"):
            raise ValueError(f"direction must be 'maximize' or 'minimize', got {direction!r}")
        self.best_of = direction
        self.tracking: Tracking | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Raises ``SystemExit`` with one sentence when the store cannot be opened.

        Hydra would turn any other exception of a callback into a warning and go on.
        """
        if not is_main_process():
            return
        try:
            tracking = instantiate(config.logger)
            if not isinstance(tracking, MLflowTracking):
                return
            overrides = list(config.hydra.overrides.task)
            tags = {"saev.verb": config.hydra.job.name, "saev.sweep": "parent"}
            tags |= {"saev.sweep.dir": str(config.hydra.sweep.dir)}
            name = " ".join(["sweep", *overrides])[:120]
            tracking.start(name, tags, dict(o.lstrip("+~").partition("=")[::2] for o in overrides))
        except Exception as error:
            from saev.cli.sentence import sentence

            raise SystemExit(sentence(error) or repr(error)) from error
        self.tracking = tracking
        os.environ[PARENT_ENV] = str(tracking.run_id)
        atexit.register(self._close_early)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Runs in the member's process."""
        if self.tracking is None or job_return.status is not JobStatus.COMPLETED:
            return
        value = job_return.return_value
        if isinstance(value, int | float) and not isinstance(value, bool):
            number = int(config.hydra.job.num)
            self.tracking.log_metrics({OBJECTIVE: value}, step=number)
            overrides = " ".join(config.hydra.overrides.task)
            self.tracking.set_tags({f"saev.sweep.member.{number}": overrides})

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if self.tracking is None:
            return
        try:
            best = self._best()
        except Exception as error:  # what the members found stays, whatever the store does
            log.warning("the best member cannot be read from the store (%s)", first_line(error))
            best = None
        if best is not None:
            number, value = best
            self.tracking.log_metrics({f"{OBJECTIVE}/best": value})
            self.tracking.set_tags({"saev.sweep.best_member": str(number)})
        run_id = self.tracking.run_id
        self._close("FINISHED")
        if config.hydra.job.name.endswith("train"):
            from saev.cli.console import print_next

            print_next([f"python -m saev.evaluate sweep={run_id}", "make ui"])

    def _best(self) -> tuple[int, float] | None:
        """Number and objective of the best member; None when no member returned a number."""
        store, run_id = self._store()
        history = store.get_metric_history(run_id, OBJECTIVE)
        values = {entry.step: entry.value for entry in history if math.isfinite(entry.value)}
        if not values:
            return None
        choose = max if self.best_of == "maximize" else min
        return choose(values.items(), key=lambda item: item[1])

    def _close_early(self) -> None:
        """At the process's exit after a member has failed or someone stopped the sweep: Hydra
        leaves out ``on_multirun_end`` then."""
        try:
            was_stopped = self._was_stopped()
        except Exception:  # the store is away
            was_stopped = True
        self._close("KILLED" if was_stopped else "FAILED")

    def _was_stopped(self) -> bool:
        store, run_id = self._store()
        experiment_id = store.get_run(run_id).info.experiment_id
        members = store.search_runs([experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
        return any(member.info.status in ("KILLED", "RUNNING") for member in members)

    def _store(self) -> tuple[Any, str]:
        from saev.tracking.mlflow_store import client

        assert isinstance(self.tracking, MLflowTracking) and self.tracking.run_id is not None
        return client(self.tracking.tracking_uri), self.tracking.run_id

    def _close(self, status: Status) -> None:
        assert self.tracking is not None
        self.tracking.finish(status)
        self.tracking = None
        os.environ.pop(PARENT_ENV, None)
        atexit.unregister(self._close_early)
