"""Lockstep: several jobs in one thread, each going on where another has to wait.

A job runs as ever, and where it needs what all of them read together it waits; then the next one goes on.
What belongs to one job alone though a process has it once (generators of random numbers, Hydra's config,
handlers of loggers) is put away and brought back with it.
"""

from __future__ import annotations

import logging
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from greenlet import getcurrent, greenlet
from hydra.core.hydra_config import HydraConfig

from saev.stopping import listen_again

T = TypeVar("T")
Handlers = dict[logging.Logger, list[logging.Handler]]
SEEDS = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
"""Environment variables that Lightning keeps a seed in."""


class Lockstep:
    """Jobs that read one stream, at the same place of it.

    ``advance(position)`` is called whenever every job that is still running waits: it makes that place of
    the stream ready, the foremost that anyone waits for.
    """

    def __init__(self) -> None:
        self.advance: Callable[[int], None] = lambda position: None
        self.shared: dict[str, Any] = {}
        """What the jobs have in common, by name: whoever comes first puts it there."""
        self._jobs: list[_Job] = []

    def run(self, works: Sequence[Callable[[], T]]) -> list[T]:
        """What each of them returns, in order.

        Where one raises, the others go on to their end, and the first error is raised then.
        """
        self._jobs = [_Job(work) for work in works]
        _forget_files()
        with _current(self):
            while running := [job for job in self._jobs if not job.has_ended]:
                if all(job.waits_for is not None for job in running):
                    place = min(job.waits_for or 0 for job in running)
                    self.advance(place)
                    running = [job for job in running if job.waits_for == place]
                for job in running:
                    job.waits_for = None
                    job.go_on()
        errors = [job.error for job in self._jobs if job.error is not None]
        if errors:
            raise errors[0]
        return [job.result for job in self._jobs]

    def wait(self, position: int) -> None:
        """Within a job: until this place of the stream is ready."""
        here = getcurrent()
        job = next(one for one in self._jobs if one.greenlet is here)
        job.waits_for = position
        assert here.parent is not None
        here.parent.switch()

    @property
    def leads(self) -> bool:
        """Whether the job that asks is the first of those that still run: the one that shows a bar."""
        running = [job for job in self._jobs if not job.has_ended]
        return bool(running) and running[0].greenlet is getcurrent()


class _Job:
    """One of the jobs, and what is put away with it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.greenlet = greenlet(work)
        self.waits_for: int | None = None
        self.result: Any = None
        self.error: BaseException | None = None
        self._own: dict[str, Any] | None = None

    @property
    def has_ended(self) -> bool:
        return self.greenlet.dead

    def go_on(self) -> None:
        """Until it waits or ends."""
        around = _state()
        if self._own is not None:
            _restore(self._own)
        listen_again()  # Lightning has put a handler of its own before ours, job by job
        try:
            result = self.greenlet.switch()
        except BaseException as error:
            self.error = error
        else:
            if self.greenlet.dead:
                self.result = result
        finally:
            self._own = _state()
            _restore(around)
            if self.greenlet.dead:
                _close_files(self._own["handlers"], around["handlers"])
                self._own = None


def _state() -> dict[str, Any]:
    """Of everything that a process has once and a job for itself."""
    state: dict[str, Any] = {
        "python": random.getstate(),
        "hydra": HydraConfig.instance().cfg,
        "environ": {name: os.environ.get(name) for name in SEEDS},
        "handlers": {one: one.handlers[:] for one in _loggers()},
    }
    if "numpy" in sys.modules:
        state["numpy"] = sys.modules["numpy"].random.get_state()
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        state["torch"] = torch.get_rng_state()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def _restore(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    HydraConfig.instance().cfg = state["hydra"]
    for name, value in state["environ"].items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    for logger in _loggers():
        logger.handlers[:] = state["handlers"].get(logger, [])
    if "numpy" in state:
        sys.modules["numpy"].random.set_state(state["numpy"])
    if "torch" in state:
        sys.modules["torch"].set_rng_state(state["torch"])
    if "cuda" in state:
        sys.modules["torch"].cuda.set_rng_state_all(state["cuda"])


def _close_files(own: Handlers, around: Handlers) -> None:
    """Those of a job: Hydra closes what it finds when the next one begins, and what is written to later is
    opened again."""
    kept = {handler for handlers in around.values() for handler in handlers}
    for handler in {handler for handlers in own.values() for handler in handlers} - kept:
        if isinstance(handler, logging.FileHandler):
            handler.close()


def _forget_files() -> None:
    """Of an earlier run in this process: what a logger says between jobs is not for its files."""
    for logger in _loggers():
        if logger is not logging.root:
            kept = [one for one in logger.handlers if not isinstance(one, logging.FileHandler)]
            logger.handlers[:] = kept


def _loggers() -> list[logging.Logger]:
    """Those with handlers: Hydra gives each job files of its own."""
    known = logging.root.manager.loggerDict.values()
    return [
        logging.root,
        *(one for one in known if isinstance(one, logging.Logger) and one.handlers),
    ]


_running: Lockstep | None = None


def current() -> Lockstep | None:
    """The one that the caller runs in; None outside of any."""
    return _running


@contextmanager
def _current(lockstep: Lockstep) -> Iterator[None]:
    global _running
    _running = lockstep
    try:
        yield
    finally:
        _running = None
