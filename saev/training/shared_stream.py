"""One stream of activations for several dictionaries that are trained in lockstep."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from datamodules.activations.loader import SizedBatchLoader
from datamodules.activations.module import ActivationDataModule
from datamodules.activations.stream import TokenBatch
from saev.cli.lockstep import Lockstep

KEPT_BYTES = 2**29
"""Held-out tokens that are kept for all members; more are read by each anew."""

KEPT_BATCHES = 4
"""A trainer asks for a batch before it is done with the one before."""


class SharedStream:
    """Batches of one data module, each read once and handed to every member."""

    def __init__(self, source: ActivationDataModule, lockstep: Lockstep) -> None:
        self.source, self.lockstep = source, lockstep
        self._batches: dict[int, TokenBatch] = {}
        self._reading: Iterator[TokenBatch] | None = None
        self._next = 0
        self._pools: dict[int, Float[Tensor, "n d"]] = {}
        self._heldout: list[TokenBatch] | None = None
        lockstep.advance = self._advance

    def batch(self, position: int) -> TokenBatch:
        """The one at this place, once all members are there."""
        while position not in self._batches:
            self.lockstep.wait(position)
        return self._batches[position]

    def _advance(self, position: int) -> None:
        if self._reading is None or position < self._next:
            self.source.load_state_dict({"position": position, **self.source.order()})
            self._reading, self._next = iter(self.source.train_dataloader()), position
        while self._next <= position:
            self._batches[self._next] = next(self._reading)
            self._next += 1
        for old in [place for place in self._batches if place <= position - KEPT_BATCHES]:
            del self._batches[old]

    def pool(self, n_tokens: int) -> Float[Tensor, "n d"]:
        """The first tokens of the stream."""
        if n_tokens not in self._pools:
            self.source.setup("fit")
            self._pools[n_tokens] = self.source.pool(n_tokens)
        return self._pools[n_tokens]

    def has_pool(self, n_tokens: int) -> bool:
        """Whether they have been read."""
        return n_tokens in self._pools

    def heldout(self) -> Iterator[TokenBatch]:
        """All held-out batches."""
        if self._heldout is None:
            manifest = self.source.manifest
            n_tokens = sum(shard.n_tokens for shard in manifest.of_split("heldout"))
            dtype = getattr(torch, manifest.dtype)
            if n_tokens * manifest.width * dtype.itemsize > KEPT_BYTES:
                yield from self.source.val_dataloader()
                return
            self._heldout = [
                TokenBatch(batch.acts.to(dtype), batch.n_images)
                for batch in self.source.val_dataloader()
            ]
        for batch in self._heldout:
            yield TokenBatch(batch.acts.float(), batch.n_images)


class SharedActivations(ActivationDataModule):
    """The data module of a member: its position is its own, the batches are everybody's."""

    def __init__(self, shared: SharedStream) -> None:
        source = shared.source
        super().__init__(
            source.dir,
            source.batch_size,
            reservoir_tokens=source.reservoir_tokens,
            num_workers=source.num_workers,
            seed=source.seed,
            drop_last=source.drop_last,
            max_norm=source.max_norm,
            verify_checksums=source.verify_checksums,
            val_batch_size=source.val_batch_size,
            pin_memory=source.pin_memory,
        )
        self.shared = shared
        self.manifest = source.manifest

    def prepare_data(self) -> None:
        """Once for all members."""
        self.shared.source.prepare_data()
        self.statistics = self.shared.source.statistics

    def pool(self, n_tokens: int) -> Float[Tensor, "n d"]:
        """The first tokens of the stream, the same for all members."""
        if self.num_workers and self.shared.has_pool(n_tokens):
            iter(
                DataLoader(TensorDataset(torch.zeros(1)))
            )  # draws the number that it would have drawn to read them
        return self.shared.pool(n_tokens)

    def train_dataloader(self) -> Any:
        """Endless; each iteration over it begins at the current position."""
        return _Batches(self)

    def val_dataloader(self) -> Any:
        """All held-out tokens in order, once."""
        return _Heldout(self.shared)


# Lightning files its state in a checkpoint under this name: a member's run can go on alone
SharedActivations.__qualname__ = ActivationDataModule.__qualname__


class _Batches:
    def __init__(self, data: SharedActivations) -> None:
        self.data = data

    def __iter__(self) -> Iterator[TokenBatch]:
        self.data.begin_iteration()
        position = self.data.position
        while True:
            yield self.data.shared.batch(position)
            position += 1


class _Heldout:
    def __init__(self, shared: SharedStream) -> None:
        self.shared = shared
        self.loader: SizedBatchLoader = shared.source.val_dataloader()

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[TokenBatch]:
        return self.shared.heldout()


def shared(data: ActivationDataModule, lockstep: Lockstep) -> SharedActivations:
    """A member's view of the stream, which is that of the member who comes first."""
    if "stream" not in lockstep.shared:
        lockstep.shared["stream"] = SharedStream(data, lockstep)
    return SharedActivations(lockstep.shared["stream"])
