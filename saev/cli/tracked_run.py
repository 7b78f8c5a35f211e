"""Tracked run: one MLflow run around a command's work, its config, a clean end."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from saev.tracking import Tracking, provenance_tags, status_of

NOT_PARAMS = ("paths", "callbacks", "logger")
"""Sections that say where results go and not what they are; ``config.yaml`` has them all the same."""

COMPARED = ("model", "seed", "backbone", "tokens", "data", "images")
"""Sections whose overrides stand first in the name of a sweep's member."""


@contextmanager
def tracked_run(cfg: DictConfig, out_dir: Path, verb: str) -> Iterator[Tracking]:
    """Opens the run of one command, and closes it as finished, failed or killed.

    Writes the composed config to ``config.yaml`` in ``out_dir`` and to the run, and tags the run with
    the verb, the experiment file, the git state and the versions of the stack.

    Raises:
        UserError: the tracking store cannot be opened.
    """
    tracking: Tracking = instantiate(cfg.logger)
    resolved: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    out_dir.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.create(resolved), out_dir / "config.yaml")
    tags = {
        "saev.verb": verb,
        "saev.run_dir": str(out_dir),
        **_hydra_tags(),
        **provenance_tags(),
    }
    params = {key: value for key, value in resolved.items() if key not in NOT_PARAMS}
    tracking.start(run_name=_run_name(cfg, verb), tags=tags, params=params)
    try:
        tracking.log_artifact(out_dir / "config.yaml")
        yield tracking
    except BaseException as error:
        tracking.finish(status_of(error))
        raise
    tracking.finish("FINISHED")


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
