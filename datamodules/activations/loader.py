"""Activation loader: batches from worker processes to the trainer.

Not a ``DataLoader``'s own way of doing it, which maps fresh shared memory for every batch: that
costs more than reading the tars. Here each worker gathers tokens right into a few shared slots in
turn, only their numbers travel, and the conversion to float32, into memory that is used again, is
the one copy on the trainer's side.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from datamodules.activations.format import Manifest
from datamodules.activations.stream import Memory, TokenBatch
from datamodules.workers import end_with_parent, start_method
from saev.errors import UserError

if TYPE_CHECKING:
    from datamodules.activations.heldout import HeldoutTokens

PREFETCH = 2  # batches asked of each worker in advance: torch's default
# in the worst case those are ready, one is being filled and one is being read
N_SLOTS = PREFETCH + 2

MOST_KEPT = 4
"""Pieces of memory kept for later: the trainer holds a batch or two, the loader makes the next one."""


@runtime_checkable
class BatchStream(Protocol):
    """``TokenStream`` or ``HeldoutTokens``."""

    manifest: Manifest
    batch_size: int

    def batches(self, memory: Memory) -> Iterator[TokenBatch]: ...


class BatchLoader:
    """Iterates over a stream, in ``num_workers`` processes or (0) in this one.

    ``before`` is called at the start of each iteration. A UserError in a worker arrives as it is,
    without the worker's traceback in its message. ``acts`` become float32, pinned if asked for.
    """

    def __init__(
        self,
        stream: BatchStream,
        num_workers: int,
        pin_memory: bool,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        self.stream, self.num_workers, self.pin_memory = stream, num_workers, pin_memory
        self._before = before

    def __iter__(self) -> Iterator[TokenBatch]:
        self._before()
        memory = BatchMemory()
        for batch in self._from_workers() if self.num_workers else self._from_here():
            # on CUDA torch itself keeps pinned memory for later
            shape = batch.acts.shape
            acts_bd = (
                torch.empty(shape, pin_memory=True) if self.pin_memory else memory.lend(*shape)
            )
            yield TokenBatch(acts_bd.copy_(batch.acts), batch.n_images)

    def _slots(self, *n: int) -> Float[Tensor, "*n b d"]:
        manifest = self.stream.manifest
        shape = (*n, self.stream.batch_size, manifest.width)
        return torch.empty(shape, dtype=getattr(torch, manifest.dtype))

    def _from_here(self) -> Iterator[TokenBatch]:
        slot = self._slots()
        return self.stream.batches(lambda n_tokens: slot[:n_tokens])

    def _from_workers(self) -> Iterator[TokenBatch]:
        slots = self._slots(self.num_workers, N_SLOTS).share_memory_()
        loader = DataLoader(
            _Filling(self.stream, slots),
            batch_size=None,
            num_workers=self.num_workers,
            prefetch_factor=PREFETCH,
            multiprocessing_context=start_method(self.num_workers),
            worker_init_fn=end_with_parent,
        )
        for filled in loader:
            if isinstance(filled, str):
                raise UserError(filled)
            acts_bd = slots[filled.worker, filled.slot, : filled.n_tokens]
            yield TokenBatch(acts_bd, filled.n_images)


class BatchMemory:
    """Lends float32 memory; a piece comes back when the last tensor that lies in it is gone, whoever
    holds it until then. A batch of 50 MB in new memory is faulted in page by page, which takes longer
    than the copy into it."""

    def __init__(self) -> None:
        self._free: list[np.ndarray] = []

    def lend(self, n_rows: int, width: int) -> Tensor:
        """Memory of shape (n_rows, width) whose values are anything."""
        shape = (n_rows, width)
        found = next((place for place, one in enumerate(self._free) if one.shape == shape), None)
        piece = np.empty(shape, np.float32) if found is None else self._free.pop(found)
        lent = piece[:]  # torch keeps this array alive for as long as it uses the memory
        weakref.finalize(lent, self._take_back, piece).atexit = False
        return torch.from_numpy(lent)

    def _take_back(self, piece: np.ndarray) -> None:
        self._free.append(piece)
        del self._free[:-MOST_KEPT]


class SizedBatchLoader(BatchLoader):
    """One whose number of batches is known."""

    stream: HeldoutTokens

    def __len__(self) -> int:
        return len(self.stream.sizes)


class _Filled(NamedTuple):
    """Where a batch lies."""

    worker: int
    slot: int
    n_tokens: int
    n_images: int


class _Filling(IterableDataset[_Filled | str]):
    """Has a worker's batches written into its slots in turn; an error becomes its message."""

    def __init__(self, stream: BatchStream, slots: Tensor) -> None:
        self.stream, self.slots = stream, slots

    def __iter__(self) -> Iterator[_Filled | str]:
        info = get_worker_info()
        worker = info.id if info else 0
        slot = -1

        def next_slot(n_tokens: int) -> Tensor:
            nonlocal slot
            slot = (slot + 1) % N_SLOTS
            return self.slots[worker, slot, :n_tokens]

        try:
            for batch in self.stream.batches(next_slot):
                yield _Filled(worker, slot, len(batch.acts), batch.n_images)
        except UserError as error:
            yield str(error)
