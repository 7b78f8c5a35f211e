"""Activations made of known sparse features, and short training runs on them."""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import lightning as L
import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from saev.defaults import CONF_DIR
from saev.training.sae_module import SAETraining

LIGHTNING_WARNINGS = [
    pytest.mark.filterwarnings(rule)
    for rule in (
        "ignore:You defined a `validation_step` but have no",  # most runs here need no validation
        "ignore:.*does not have many workers",  # the data is in memory
        "ignore:.*isinstance.treespec, LeafSpec",  # lightning 2.6 on torch 2.15
        "ignore:Checkpoint directory .* exists and is not empty",
        "ignore:You're resuming from a checkpoint that ended before the epoch ended",
    )
]

INIT = {"encoder": "transpose", "bias": "mean"}
UNIT_GAIN = {**INIT, "encoder": "unit_gain"}

D_MODEL = 16
D_SAE = 64


class Recorder(Logger):
    """Keeps what Lightning hands to a logger, with the step it belongs to."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []

    name = "recorder"
    version = 0

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append({**metrics, "step": step or 0})

    def column(self, name: str) -> list[float]:
        return [row[name] for row in self.rows if name in row]


class Batch(NamedTuple):
    acts: Tensor
    n_images: int


def atoms(n: int = D_SAE, d: int = D_MODEL) -> Tensor:
    """Random unit vectors, the features of ``activations``."""
    return torch.nn.functional.normalize(
        torch.randn(n, d, generator=torch.Generator().manual_seed(1)), dim=1
    )


def activations(n_tokens: int, features: Tensor | None = None, n_active: int = 4) -> Tensor:
    """Sums of ``n_active`` features with weights in [0.5, 1.5], plus a mean of 3."""
    features = atoms() if features is None else features
    generator = torch.Generator().manual_seed(2)
    chosen = torch.rand(n_tokens, len(features), generator=generator).topk(n_active).indices
    weights = torch.rand(n_tokens, n_active, generator=generator) + 0.5
    codes = torch.zeros(n_tokens, len(features)).scatter_(1, chosen, weights)
    return codes @ features + 3


def model_config(name: str) -> DictConfig:
    """``conf/model/<name>.yaml`` with what it takes from its base."""
    with initialize_config_dir(str(CONF_DIR), version_base=None):
        return compose("train", [f"model={name}"]).model


def decaying(fraction: float, warmup_steps: int = 0, **others: Any) -> dict[str, Any]:
    """The node ``learning_rate``: falls to 0 over the last ``fraction``."""
    return {"warmup_steps": warmup_steps, "decay_fraction": fraction, **others}


def jump(**changes: Any) -> dict[str, Any]:
    """The node ``jump_relu``: thresholds start at the aim, with a ramp of width 1."""
    return {"start_threshold": None, "bandwidth": 1.0, **changes}


def make_module(data: Tensor | None = None, lr: float = 3e-3, **kwargs: Any) -> SAETraining:
    """A small TopK module on ``activations``, weights from seed 0; kwargs override."""
    torch.manual_seed(0)
    data = activations(1000) if data is None else data
    settings = {
        "activation": "topk",
        "k": 8,
        "d_sae": D_SAE,
        "dead_after_tokens": 500,
        "init": INIT,
        **kwargs,
    }
    optimizer = functools.partial(torch.optim.Adam, lr=lr, fused=True)
    module = SAETraining(data.shape[1], optimizer, **settings)
    mean = data.mean(0)
    scale = (data.shape[1] / (data - mean).square().sum(1).mean()).sqrt().item()
    module.set_data_statistics(mean, scale, None)
    module.initialize_from(data[:1000])
    return module


class Stream(IterableDataset):
    """Batches in order, without a length; begins at a step, as the real stream does on resume."""

    def __init__(self, data: Tensor, batch_size: int, start: int = 0) -> None:
        self.data, self.batch_size, self.start = data, batch_size, start

    def __iter__(self) -> Iterator[Batch]:
        for acts in self.data.split(self.batch_size)[self.start :]:
            yield Batch(acts, 3)


def loader(data: Tensor, batch_size: int = 64, start: int = 0) -> DataLoader:
    return DataLoader(Stream(data, batch_size, start), batch_size=None)


def fit(
    module: SAETraining,
    data: Tensor,
    batch_size: int = 64,
    ckpt_path: str | None = None,
    start: int = 0,
    val: Tensor | None = None,
    **trainer: Any,
) -> L.Trainer:
    """One pass over ``data`` unless ``max_steps`` says otherwise."""
    settings: dict[str, Any] = {
        "max_steps": -(-len(data) // batch_size),
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "gradient_clip_val": 1.0,
        "log_every_n_steps": 10,
        **trainer,
    }
    run = L.Trainer(**settings)
    val_loader = None if val is None else loader(val, batch_size)
    run.fit(module, loader(data, batch_size, start), val_loader, ckpt_path=ckpt_path)
    return run
