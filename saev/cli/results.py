"""A command's device and its ``metrics.json``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from saev.defaults import OUTPUTS
from saev.files import write_atomically
from saev.tracking.run import Tracking

if TYPE_CHECKING:
    import torch


def device_of(accelerator: str) -> "torch.device":
    """The one device that ``trainer.accelerator`` means here: auto, cpu, gpu, …"""
    import lightning as L

    return L.Fabric(accelerator=accelerator, devices=1).device


def chosen_device(device: "str | torch.device | None") -> "torch.device":
    """The one that is asked for; None: a GPU where there is one."""
    import torch

    return torch.device(device) if device is not None else device_of("auto")


def new_run_dir(verb: str) -> Path:
    """A folder of its own for results, where the command would have put them."""
    from datetime import datetime

    return Path(OUTPUTS) / "runs" / verb / datetime.now().strftime("%Y-%m-%d_%H-%M-%S_%f")


def keep_metrics(
    metrics: Mapping[str, float],
    out_dir: Path,
    tracking: Tracking,
    *,
    step: int | None = None,
    new: Mapping[str, float] | None = None,
) -> Path:
    """Writes ``metrics.json`` in ``out_dir``, keys sorted, and logs the numbers and the file.

    A nan (nothing was there to measure) stands in the file and not on the run. ``new`` says which of
    the metrics the run does not have yet; by default all of them. Returns the file.
    """
    path = out_dir / "metrics.json"
    write_atomically(path, json.dumps(metrics, indent=2, sort_keys=True) + "\n")
    logged = metrics if new is None else new
    tracking.log_metrics({name: x for name, x in logged.items() if x == x}, step)
    tracking.log_artifact(path)
    return path
