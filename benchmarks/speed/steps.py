"""Training steps of every variant through Lightning's loop, clipping on.

Shapes: `b` tokens, `d` width, `s` latents.
"""

import itertools
import statistics
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from benchmarks.speed.peers import Peers
from benchmarks.speed.rows import Rounds, Row, Shape, interleaved, rate, ratio, timed
from saev.defaults import defaults
from saev.sae.sparse import PRE_BLOCK_ELEMENTS
from saev.training.fit import build_model, lightning_quiet
from saev.training.sae_module import SAETraining

PRODUCT, DENSE = "encoder_product", "dense"
N_BATCHES = 4
"""Cycled: what is in the cache is not the data."""

DEAD_SHARE = 10
"""One latent in so many is dead where AuxK is at work."""


@dataclass(frozen=True)
class Variant:
    """A dictionary in training."""

    model: str
    precision: str = "32-true"
    dense: bool = False
    dead: bool = False


VARIANTS = {
    "topk": Variant("topk"),
    "topk, bfloat16 candidates": Variant("topk", precision="bf16-mixed"),
    "topk, a tenth dead": Variant("topk", dead=True),
    "bfloat16, a tenth dead": Variant("topk", precision="bf16-mixed", dead=True),
    "multi_topk": Variant("multi_topk"),
    "batch_topk": Variant("batch_topk"),
    "matryoshka": Variant("matryoshka"),
    "jump_relu": Variant("jump_relu"),
    "gated": Variant("gated"),
    DENSE: Variant("topk", dense=True),
    "dense jump_relu": Variant("jump_relu", dense=True),
    "dense gated": Variant("gated", dense=True),
}
DENSE_OF = {"jump_relu": "dense jump_relu", "gated": "dense gated"}
"""Which dense step a variant is compared with, where it is not TopK's."""


def activations(n: int, d: int, seed: int, rank: int = 64) -> Float[Tensor, "n d"]:
    """Normal noise, and as much again in ``rank`` directions."""
    generator = torch.Generator().manual_seed(seed)
    # the directions are the same whatever the seed
    basis = torch.randn(rank, d, generator=torch.Generator().manual_seed(99)) * (d / rank**2) ** 0.5
    noise = torch.randn(n, d, generator=generator)
    return noise + torch.randn(n, rank, generator=generator) @ basis


def prepared(variant: Variant, shape: Shape, seed: int = 0) -> SAETraining:
    """A module at the start of training, with about k active latents a token."""
    torch.manual_seed(seed)
    # so slow that the number of active latents stays what it is at the start
    settings: dict[str, Any] = {"d_sae": shape.d_sae, "k": shape.k, "optimizer": {"lr": 1e-7}}
    if variant.model == "gated":
        settings.pop("k")
    module = build_model(variant.model, shape.d, settings)
    assert isinstance(module, SAETraining)
    pool = activations(max(shape.d_sae, 4096), shape.d, seed)
    scale = (shape.d / pool.square().sum(1).mean()).sqrt()
    module.set_data_statistics(torch.zeros(shape.d), float(scale), None)
    module.tokens_per_step = shape.batch
    module.initialize_from(pool)
    sae = module.sae
    with torch.no_grad():
        if variant.model == "gated":
            pre = sae.pre_activations(sae.normalize(pool[:256]))
            sae.b_enc -= (
                pre.flatten().kthvalue(round(pre.numel() * (1 - shape.k / shape.d_sae))).values
            )
        if variant.dead:
            sae.b_enc[::DEAD_SHARE] = -1e6
            module.tokens_since_fired[::DEAD_SHARE] = 10**12
    if variant.dense:
        module.encoding = replace(module.encoding, sparse=False, memory=None)
    return module


class _Batches(IterableDataset):
    def __init__(self, batches: list[Tensor]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        for acts in itertools.cycle(self.batches):
            yield SimpleNamespace(acts=acts, n_images=1)


class _Clock(L.Callback):
    """From the start of a step to the start of the next: the whole of Lightning's loop."""

    def __init__(self) -> None:
        self.starts: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.starts.append(time.perf_counter())


def seconds_a_step(
    module: SAETraining, batches: list[Tensor], n_steps: int, precision: str
) -> float:
    """The median of n steps, after two that set things up."""
    clock = _Clock()
    with lightning_quiet():
        _fit(module, batches, n_steps, precision, clock)
    pairs = itertools.pairwise(clock.starts[2:])
    return statistics.median(b - a for a, b in pairs)


def _fit(
    module: SAETraining, batches: list[Tensor], n_steps: int, precision: str, clock: L.Callback
) -> None:
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        precision=precision,  # pyright: ignore
        max_steps=n_steps + 3,
        max_epochs=-1,
        gradient_clip_val=defaults("trainer/default")["gradient_clip_val"],
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
        warnings.filterwarnings("ignore", ".*have no `val_dataloader`.*")
        trainer.fit(module, DataLoader(_Batches(batches), batch_size=None))


class EncoderProduct:
    """The bare product that every step begins with: at once or in blocks that stay in the cache,
    whichever is faster, into memory that is kept."""

    def __init__(self, shape: Shape, acts: Tensor) -> None:
        self.acts, self.n_rows = acts, max(256, PRE_BLOCK_ELEMENTS["cpu"] // shape.d_sae)
        self.W = torch.randn(shape.d_sae, shape.d)
        self.whole = torch.empty(shape.batch, shape.d_sae)
        self.block = torch.empty(self.n_rows, shape.d_sae)

    def seconds(self) -> float:
        """Of the faster of the two."""
        return min(timed(self._at_once), timed(self._in_blocks))

    def _at_once(self) -> None:
        torch.mm(self.acts, self.W.T, out=self.whole)

    def _in_blocks(self) -> None:
        for rows in self.acts.split(self.n_rows):
            torch.mm(rows, self.W.T, out=self.block[: len(rows)])


def measure(
    shape: Shape, names: list[str], rounds: int, n_steps: int, peers: Peers | None
) -> list[Row]:
    """A row for each variant and limit, and for each library there is an environment for."""
    batches = [activations(shape.batch, shape.d, 1 + i) for i in range(N_BATCHES)]
    modules = {name: prepared(VARIANTS[name], shape) for name in names}
    product = EncoderProduct(shape, batches[0])
    candidates = {PRODUCT: product.seconds}
    for name, module in modules.items():
        candidates[name] = _step(module, batches, n_steps, VARIANTS[name].precision)
    libraries: list[str] = []
    if peers is not None:
        workers = peers.started(shape)
        libraries = list(workers)
        candidates |= {name: worker.seconds for name, worker in workers.items()}
    try:
        found = interleaved(candidates, rounds)
    finally:
        if peers is not None:
            peers.close()
    return _rows(shape, found, libraries)


def _step(module: SAETraining, batches: list[Tensor], n_steps: int, precision: str) -> Any:
    return lambda: seconds_a_step(module, batches, n_steps, precision)


def _rows(shape: Shape, found: Rounds, libraries: list[str]) -> list[Row]:
    rows = []
    for name, rounds in found.items():
        value, low, high = rate(found, name, shape.batch)
        limits: list[str | None] = [None]
        if name != PRODUCT:
            is_own = name not in libraries and not VARIANTS[name].dense
            wanted = [PRODUCT, *([DENSE_OF.get(name, DENSE)] if is_own else [])]
            if name == "topk" or name.startswith("topk, bf"):
                wanted += libraries
            limits = [limit for limit in wanted if limit in found]
        for limit in limits:
            rows.append(
                Row(
                    "step", name, shape.d, shape.d_sae, shape.k, shape.batch, torch.get_num_threads(),
                    value, "vectors/s", DENSE if limit in DENSE_OF.values() else limit,
                    None if limit is None else ratio(found, limit, name), low, high, len(rounds),
                )
            )  # fmt: skip
    return rows
