"""Tracked run: one MLflow run around a command's work, its config, a clean end."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from saev.defaults import conf_node
from saev.errors import UserError
from saev.files import read_whole, remove_partials, write_atomically
from saev.tracking import Tracking, is_main_process, status_of

CONFIG = "config.yaml"
VERBS = ("record", "train", "evaluate", "describe", "compare", "intervene")
NOT_PARAMS = ("paths", "callbacks", "logger")
"""Sections that say where results go and not what they are; ``config.yaml`` has them all the same."""

COMPARED = ("model", "seed", "backbone", "tokens", "data", "images")
"""Sections whose overrides stand first in the name of a sweep's member."""


@contextmanager
def tracked_run(
    cfg: DictConfig, out_dir: Path, verb: str, *, is_shared: bool = False
) -> Iterator[Tracking]:
    """Opens the run of one command, and closes it as finished, failed or killed.

    Nobody else may write into ``out_dir`` meanwhile, unless ``is_shared``.

    Writes the composed config to ``config.yaml`` in ``out_dir`` and to the run, and tags the run with
    the verb and the experiment file.

    Raises:
        UserError: the tracking store cannot be opened, another command is at work in ``out_dir``, or it
            holds the results of another verb.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    with nullcontext() if is_shared or not is_main_process() else _held(out_dir):
        _refuse_another_verb(out_dir, verb)
        yield from _tracked(cfg, out_dir, verb)


def _tracked(cfg: DictConfig, out_dir: Path, verb: str) -> Iterator[Tracking]:
    tracking: Tracking = instantiate(cfg.logger)
    resolved: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    write_atomically(out_dir / CONFIG, OmegaConf.to_yaml(OmegaConf.create(resolved)))
    tags = {
        "saev.verb": verb,
        "saev.run_dir": str(out_dir),
        **_hydra_tags(),
    }
    params = {key: value for key, value in resolved.items() if key not in NOT_PARAMS}
    tracking.start(run_name=_run_name(cfg, verb), tags=tags, params=params)
    try:
        tracking.log_artifact(out_dir / CONFIG)
        yield tracking
    except BaseException as error:
        tracking.finish(status_of(error))
        raise
    tracking.finish("FINISHED")


def _refuse_another_verb(folder: Path, verb: str) -> None:
    """Raises UserError where the folder's ``config.yaml`` is another verb's, or somebody's own: it and
    ``metrics.json`` would be replaced."""
    path = folder / CONFIG
    if not path.exists():
        return
    try:
        found = yaml.safe_load(read_whole(path, "give another hydra.run.dir"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        found = "unreadable"
    if found is None:  # empty
        return
    keys = set(found) if isinstance(found, dict) else set()
    fit = {one: _fit(set(conf_node(one)), keys) for one in VERBS}
    owner = max(VERBS, key=lambda one: fit[one])
    if fit[owner] <= 0:
        owner = None
    if owner != verb:
        whose = "is none of saev's" if owner is None else f"is of saev.{owner}"
        raise UserError(
            f"{path} {whose}, and saev.{verb} would replace it; give another hydra.run.dir"
        )


def _fit(own: set[str], keys: set[str]) -> int:
    """Keys of a verb that a file has, less those that it lacks: older versions had fewer."""
    return len(own & keys) - len(own - keys)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Within it this process alone writes results into a folder, from which what a killed one had begun to
    write is removed; nothing is held where a file system has no locks.

    Raises:
        UserError: another process holds it.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
        remove_partials(folder)
    except Timeout as error:
        raise UserError(
            f"another process writes into {folder}: wait until it has ended, or give another hydra.run.dir"
        ) from error
    except NotImplementedError:
        pass
    try:
        yield
    finally:
        lock.release()


def _hydra_tags() -> dict[str, str]:
    """The experiment file, and the overrides of the command line as a JSON list."""
    if not HydraConfig.initialized():
        return {}
    hydra = HydraConfig.get()
    tags = {"saev.overrides": json.dumps(list(hydra.overrides.task))}
    choice = hydra.runtime.choices.get("experiment")
    return tags | ({"saev.experiment": str(choice)} if choice else {})


def _run_name(cfg: DictConfig, verb: str) -> str:
    """``name``, else verb and the choices that tell runs apart; the overrides of a sweep member follow."""
    name = str(cfg.get("name") or verb)
    if not HydraConfig.initialized():
        return name
    hydra = HydraConfig.get()
    if not cfg.get("name"):
        chosen = [hydra.runtime.choices.get(group) for group in ("backbone", "model")]
        name = "-".join([verb, *(str(choice) for choice in chosen if choice)])
    if hydra.mode == RunMode.MULTIRUN:
        overrides = [o for o in hydra.overrides.task if o.lstrip("+").startswith(COMPARED)]
        name = " ".join([name, *overrides])
    return name[:120]
