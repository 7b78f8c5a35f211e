"""Activation loader: batches from worker processes to the trainer.

Not a ``DataLoader``'s own way of doing it, which maps fresh shared memory for every batch: that
costs more than reading the tars. Here each worker fills a few shared slots in turn, only their
numbers travel, and the conversion to float32 is the one copy on the trainer's side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from datamodules.activations.format import Manifest
from datamodules.activations.stream import TokenBatch
from datamodules.workers import end_with_parent, start_method
from saev.errors import UserError

if TYPE_CHECKING:
    from datamodules.activations.heldout import HeldoutTokens

PREFETCH = 2  # batches asked of each worker in advance: torch's default
# in the worst case those are ready, one is being filled and one is being read
N_SLOTS = PREFETCH + 2


@runtime_checkable
class BatchStream(Protocol):
    """``TokenStream`` or ``HeldoutTokens``."""

    manifest: Manifest
    batch_size: int

    def __iter__(self) -> Iterator[TokenBatch]: ...


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
        batches = iter(self.stream) if self.num_workers == 0 else self._from_workers()
        for batch in batches:
            acts_bd = torch.empty(batch.acts.shape, pin_memory=self.pin_memory)
            yield TokenBatch(acts_bd.copy_(batch.acts), batch.n_images)

    def _from_workers(self) -> Iterator[TokenBatch]:
        manifest = self.stream.manifest
        shape = (self.num_workers, N_SLOTS, self.stream.batch_size, manifest.width)
        slots = torch.empty(shape, dtype=getattr(torch, manifest.dtype)).share_memory_()
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
    """Copies a worker's batches into its slots; an error becomes its message."""

    def __init__(self, stream: BatchStream, slots: Tensor) -> None:
        self.stream, self.slots = stream, slots

    def __iter__(self) -> Iterator[_Filled | str]:
        info = get_worker_info()
        worker = info.id if info else 0
        try:
            for count, batch in enumerate(self.stream):
                slot, n_tokens = count % N_SLOTS, len(batch.acts)
                self.slots[worker, slot, :n_tokens] = batch.acts
                yield _Filled(worker, slot, n_tokens, batch.n_images)
        except UserError as error:
            yield str(error)
