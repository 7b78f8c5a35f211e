"""Entry point of every command: Hydra, one-sentence errors, exit statuses."""

import functools
import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf

from saev import stopping
from saev.cli.refusals import (
    refuse_choices,
    refuse_foreign_experiments,
    refuse_options,
    refuse_values,
)
from saev.defaults import CONF_DIR
from saev.errors import UserError, printable
from saev.tracking.run import is_main_process, status_of

log = logging.getLogger(__name__)

_SHORT_ERRORS = "SAEV_SHORT_ERRORS"
"""Set by a command for itself and its child processes when the user asked for no traceback."""

Task = Callable[[DictConfig], Any]


class PrintableFormatter(logging.Formatter):
    """Of messages on screen, which name classes and files of others."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def command(config_name: str) -> Callable[[Task], Callable[[], None]]:
    """Makes a Hydra command of a function, configured by ``conf/<config_name>.yaml``.

    ``@command("train")`` above ``def main(cfg)`` takes the place of ``@hydra.main``. What the user
    can act on ends as one line on stderr and exit status 1; a mistake of ours keeps its traceback,
    and ``HYDRA_FULL_ERROR=1`` shows one for everything. In a sweep the other members go on, the
    failing ones are reported as they fail, and the exit status is 1. Ctrl-C and SIGTERM stop it
    (see ``saev.stopping``) and end with status 130 and 143.
    """

    def decorate(task: Task) -> Callable[[], None]:
        decorate_hydra = hydra.main(
            version_base="1.3", config_path=str(CONF_DIR), config_name=config_name
        )
        run = decorate_hydra(_guard(task))

        @functools.wraps(task)
        def main() -> None:
            with stopping.listening():
                _run(run, config_name)

        return main

    return decorate


def refuse_multirun_ddp(cfg: DictConfig) -> None:
    """Raises ``UserError`` for a sweep whose members would use several devices each.

    Lightning starts the other ranks by running the command line again, and in a sweep that line
    is the whole sweep.
    """
    if not _in_multirun():
        return
    devices = OmegaConf.select(cfg, "trainer.devices", default=1)
    nodes = OmegaConf.select(cfg, "trainer.num_nodes", default=1)
    on_cpu = OmegaConf.select(cfg, "trainer.accelerator", default="auto") == "cpu"
    if isinstance(devices, ListConfig):
        single = len(devices) == 1
    else:
        single = str(devices) == "1" or (str(devices) == "auto" and on_cpu)
    if not single or nodes != 1:
        raise UserError(
            f"a sweep runs each member on one device, and trainer.devices is {devices} "
            f"(num_nodes {nodes}): add trainer.devices=1, or run the members one by one without -m"
        )


def folder_name(text: str) -> str:
    """Overrides as part of a folder name: no slashes or quotes, at most 80 characters."""
    return re.sub(r"[^\w.,=+-]+", "-", text).strip("-")[:80]


OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)  # conf/hydra/default.yaml


def _guard(task: Task) -> Task:
    """Inside Hydra: turns what the user can act on into one sentence before Hydra reports it."""

    @functools.wraps(task)
    def guarded(cfg: DictConfig) -> Any:
        try:
            refuse_values(cfg)
            return task(cfg)
        except Exception as error:
            from saev.cli.sentence import sentence

            text = sentence(error)
            if text is None or _full_errors():
                raise
            if not _in_multirun():
                raise SystemExit(text) from error
            log.error("%s", text)
            raise UserError(text) from error  # plain, so that it survives the way from a worker

    guarded.__module__ = _module_name(task)
    return guarded


def _module_name(task: Task) -> str:
    """The importable name behind ``__main__``: Hydra names the job after it, and looks for the
    caller's file by counting stack frames otherwise."""
    if task.__module__ != "__main__":
        return task.__module__
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec is not None else Path(task.__code__.co_filename).stem


def _run(run: Callable[[], Any], verb: str) -> None:
    if os.environ.get("HYDRA_FULL_ERROR") != "1":
        os.environ[_SHORT_ERRORS] = "1"
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises what it would print; printed below
    try:
        refuse_options(sys.argv[1:])
        refuse_choices(sys.argv[1:])
        refuse_foreign_experiments(verb, sys.argv[1:])
        if "hydra/launcher=shared" in sys.argv[1:]:
            from saev.cli.shared_launcher import register_launcher

            register_launcher()
        run()
    except BaseException as error:
        if status_of(error) == "KILLED":
            if is_main_process():
                words = ("stopped before the end", stopping.advice())
                sys.stderr.write("; ".join(word for word in words if word) + "\n")
            raise SystemExit(stopping.exit_status()) from error
        if _full_errors() or isinstance(error, SystemExit):
            raise
        from saev.cli.sentence import sentence

        text = sentence(error)
        if text is None:
            raise
        raise SystemExit(text) from error


def _full_errors() -> bool:
    return os.environ.get("HYDRA_FULL_ERROR") == "1" and os.environ.get(_SHORT_ERRORS) != "1"


def _in_multirun() -> bool:
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
