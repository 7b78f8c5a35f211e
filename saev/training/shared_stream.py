"""One stream of activations for several dictionaries that are trained in lockstep."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from datamodules.activations.position import StreamPosition
from datamodules.activations.stream import TokenBatch
from datamodules.workers import start_method
from saev.cli.lockstep import Lockstep

KEPT_BYTES = 2**29
"""Held-out tokens, in float32, that are kept for all members; more are read by each anew."""

KEPT_BATCHES = 4
"""A trainer asks for a batch before it is done with the one before."""


class SharedStream:
    """Batches of one data module, each read once and handed to every member."""

    def __init__(self, source: StreamPosition, lockstep: Lockstep) -> None:
        self.source, self.lockstep = source, lockstep
        self.restored: dict[int, Any] = {}
        """What checkpoints of members say of the stream, by place."""
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
            stream = self.restored.get(position)
            here = {"position": position, **self.source.order(), "stream": stream}
            self.source.load_state_dict(here)
            self._reading, self._next = iter(self.source.train_dataloader()), position
        while self._next <= position:
            assert self._reading is not None
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
        kept: list[TokenBatch] | None = [] if self._heldout is None else None
        for batch in self._heldout if self._heldout is not None else self.source.val_dataloader():
            yield batch
            if kept is not None:
                kept.append(batch)
                if sum(one.acts.nbytes for one in kept) > KEPT_BYTES:
                    kept = None
        if kept is not None:
            self._heldout = kept


class SharedActivations(StreamPosition):
    """The data module of a member: its position is its own, the batches are everybody's."""

    def __init__(self, shared: SharedStream) -> None:
        super().__init__()
        self.shared = shared
        self.batch_size, self.has_heldout = shared.source.batch_size, shared.source.has_heldout

    def prepare_data(self) -> None:
        """Once for all members."""
        self.shared.source.prepare_data()
        self.statistics = self.shared.source.statistics

    def pool(self, n_tokens: int) -> Float[Tensor, "n d"]:
        """The first tokens of the stream, the same for all members."""
        if getattr(self.shared.source, "num_workers", 0) and self.shared.has_pool(n_tokens):
            # draws the number that reading them would have drawn
            iter(DataLoader(TensorDataset(torch.zeros(1)), multiprocessing_context=start_method(0)))
        return self.shared.pool(n_tokens)

    def train_dataloader(self) -> Any:
        """Endless; each iteration over it begins at the current position."""
        return _Batches(self)

    def val_dataloader(self) -> Any:
        """All held-out tokens in order, once."""
        return _Heldout(self.shared)

    def provenance(self) -> dict[str, Any]:
        """The stream's."""
        return self.shared.source.provenance()

    def order(self) -> dict[str, Any]:
        """The stream's."""
        return self.shared.source.order()

    def state_dict(self) -> dict[str, Any]:
        """As the stream's own data module has it, at this member's position."""
        state = super().state_dict()
        if (stream_state := getattr(self.shared.source, "stream_state", None)) is not None:
            state["stream"] = stream_state(self.position)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a position, where the stream will begin that nobody is behind."""
        super().load_state_dict(state_dict)
        self.shared.restored[state_dict["position"]] = state_dict.get("stream")


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
        self.shared, self.loader = shared, shared.source.val_dataloader()

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[TokenBatch]:
        return self.shared.heldout()


def shared(data: StreamPosition, lockstep: Lockstep) -> SharedActivations:
    """A member's view of the stream, which is that of the member who comes first."""
    if "stream" not in lockstep.shared:
        lockstep.shared["stream"] = SharedStream(data, lockstep)
    # Lightning files the state in a checkpoint under the class's name: a member's run can go on alone
    kind = type(type(data).__qualname__, (SharedActivations,), {})
    return kind(lockstep.shared["stream"])
