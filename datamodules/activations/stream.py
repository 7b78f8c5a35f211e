"""Training tokens as an endless, shuffled stream.

The epoch is ours rather than webdataset's, whose shuffling repeats one order in every epoch: the
order of shards comes from (seed, epoch), each stream (a worker of a rank) takes every n-th of
them, and what a stream does within an epoch depends on (seed, epoch, rank, stream) alone. That is
what lets a resumed run go on with the very batch an undisturbed one would have had.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from datamodules.activations.format import Manifest, ShardInfo, Statistics, is_url, join
from datamodules.activations.norms import token_norms
from datamodules.activations.reservoir import Reservoir
from datamodules.activations.tar import iter_samples, not_finite
from datamodules.activations.verify import Stamp, has_changed, stamp
from saev.errors import UserError

if TYPE_CHECKING:
    from datamodules.activations.remote import RemoteShards


class TokenBatch(NamedTuple):
    """What the training and validation loaders give."""

    acts: Float[Tensor, "b d"]
    """Raw activations: float32 from the loaders, in the dtype of the tars before that."""
    n_images: int
    """How many images the tokens come from: the figure of merit of the shuffle."""


Memory = Callable[[int], Tensor]
"""Where a stream writes its next batch: n tokens → (n, d) in the dtype of the tars."""


def new_memory(manifest: Manifest) -> Memory:
    """For batches that whoever takes them may keep."""
    dtype = getattr(torch, manifest.dtype)
    return lambda n_tokens: torch.empty(n_tokens, manifest.width, dtype=dtype)


def place_of(
    location: str | Path, shard: ShardInfo, remote: RemoteShards | None
) -> tuple[str | Path, ShardInfo]:
    """Where a tar is read: where it is, or from a copy on this machine."""
    if remote is None or not remote.fits(shard):
        return location, shard
    return remote.place(shard)


class TokenStream(IterableDataset[TokenBatch]):
    """Batches of normal training tokens, forever; in each epoch every token once.

    ``reservoir_tokens`` are the slots each worker mixes tokens in: its memory is that times the
    width times the bytes of the dtype, however large the data. At the end of an epoch the
    reservoir is emptied; the last batch of a stream is dropped if partial and ``drop_last``.
    ``start_batch`` is the number of batches this rank has already consumed, with the same number
    of workers: the stream goes on after them. A tar that has another of the ``stamps`` than when it was
    verified is hashed as it is read, and refused at its end where its content has changed. At a URL tars
    come by way of ``remote``, the next one while one is read; without it they are hashed as they come.

    Raises ValueError for sizes that cannot work and UserError where the data are too few.
    """

    def __init__(
        self,
        location: str | Path,
        manifest: Manifest,
        statistics: Statistics,
        *,
        batch_size: int,
        reservoir_tokens: int,
        seed: int,
        drop_last: bool,
        rank: int = 0,
        world_size: int = 1,
        start_batch: int = 0,
        stamps: Mapping[str, Stamp] | None = None,
        remote: RemoteShards | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"data.batch_size={batch_size} must be at least 1 token.")
        if reservoir_tokens < batch_size:
            raise ValueError(
                f"data.reservoir_tokens={reservoir_tokens} must be at least data.batch_size"
                f"={batch_size}; several times as much mixes better."
            )
        self.location, self.manifest, self.statistics = location, manifest, statistics
        self.batch_size, self.reservoir_tokens = batch_size, reservoir_tokens
        self.seed, self.drop_last, self.start_batch = seed, drop_last, start_batch
        self.rank, self.world_size, self.stamps = rank, world_size, dict(stamps or {})
        self.remote = remote
        self._known: dict[str, tuple[Stamp | None, bytearray]] = {}
        self.shards = manifest.of_split("train")
        if len(self.shards) < world_size:
            raise UserError(
                f"{location} has {len(self.shards)} training shards for {world_size} ranks; "
                "record with a smaller record.images_per_shard or train on fewer devices."
            )
        if drop_last and statistics.n_normal < batch_size * world_size:
            raise UserError(
                f"{location} has {statistics.n_normal} normal training tokens, fewer than one batch"
                f" of {batch_size} for each of {world_size} ranks; lower data.batch_size."
            )

    @property
    def max_workers(self) -> int:
        """More workers than this would have nothing to do in some epochs."""
        n_batches = self.statistics.n_normal // (self.batch_size * self.world_size)
        return max(1, min(len(self.shards) // self.world_size, n_batches))

    def __iter__(self) -> Iterator[TokenBatch]:
        return self.batches(new_memory(self.manifest))

    def batches(self, memory: Memory) -> Iterator[TokenBatch]:
        """The same, each batch written where ``memory`` says when it is due."""
        info = get_worker_info()
        worker, n_workers = (info.id, info.num_workers) if info else (0, 1)
        # the loader asks its workers in turn, beginning with number 0, also after a resume
        stream = (worker + self.start_batch) % n_workers
        n_skip = (self.start_batch - stream + n_workers - 1) // n_workers
        # a slot more than there are tokens is never filled: as large as any
        n_slots = min(self.reservoir_tokens, self.statistics.n_normal + 1)
        reservoir = Reservoir(n_slots, self.manifest.width, self.manifest.dtype)
        n_empty = 0
        for epoch in itertools.count():
            shards = self._shards_of(epoch, stream, n_workers)
            n_batches = self._n_batches(shards)
            # no epoch of any stream gives a batch: the assignment has gone round completely
            n_empty = n_empty + 1 if n_batches == 0 else 0
            if n_empty > len(self.shards) * n_workers * self.world_size:
                raise UserError(
                    f"The shards of {self.location} are smaller than one batch of "
                    f"{self.batch_size} tokens; lower data.batch_size or data.num_workers."
                )
            if n_skip < n_batches:
                reservoir.clear()
                sizes = self._fill(reservoir, [self.shards[shard] for shard in shards])
                generator = np.random.default_rng([self.seed, epoch, self.rank, stream])
                yield from _drawn(reservoir, sizes, generator, n_skip, memory)
            n_skip = max(0, n_skip - n_batches)

    def _shards_of(self, epoch: int, stream: int, n_streams: int) -> list[int]:
        """Numbers of the shards one stream of this rank reads in an epoch, in order."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.shards))
        # turning with the epoch: where shards do not divide evenly nobody always gets more
        place = (self.rank * n_streams + stream + epoch) % (self.world_size * n_streams)
        return order[place :: self.world_size * n_streams].tolist()

    def _n_batches(self, shards: list[int]) -> int:
        n_tokens = sum(self.statistics.n_normal_per_shard[shard] for shard in shards)
        return n_tokens // self.batch_size if self.drop_last else -(-n_tokens // self.batch_size)

    def _fill(self, reservoir: Reservoir, shards: list[ShardInfo]) -> Iterator[int]:
        """Fills the reservoir and says, each time a batch is due, how many tokens to draw."""
        images = (
            acts_td for shard in self._ahead(shards) for acts_td in self._normal_tokens(shard)
        )
        for image, acts_td in enumerate(images):
            while len(acts_td):
                acts_td = acts_td[reservoir.add(acts_td, image) :]
                if reservoir.n_free == 0:
                    yield self.batch_size
        while reservoir.n_held >= self.batch_size:
            yield self.batch_size
        if reservoir.n_held and not self.drop_last:
            yield reservoir.n_held

    def _ahead(self, shards: list[ShardInfo]) -> Iterator[ShardInfo]:
        """Each in turn; the next one begins to come."""
        for shard, following in zip(shards, [*shards[1:], None], strict=True):
            if self.remote is not None and following is not None:
                self.remote.begin(following)
            yield shard

    def _normal_tokens(self, shard: ShardInfo) -> Iterator[Float[np.ndarray, "t d"]]:
        """Of each image of a tar in turn."""
        max_norm = self.statistics.max_norm
        known = self._all_normal(shard, join(self.location, shard.name))
        where, shard = place_of(self.location, shard, self.remote)
        path = join(where, shard.name)
        samples = iter_samples(
            where,
            shard,
            self.manifest.rows,
            finite=max_norm is None,
            checksum=is_url(where) or has_changed(where, shard, self.stamps),
        )
        for place, (acts_td, meta) in enumerate(samples):
            if max_norm is not None and known[place : place + 1] != b"\1":
                norms = token_norms(acts_td)
                normal = norms <= max_norm
                if normal.all():
                    known[place : place + 1] = b"\1"
                elif not norms.isfinite().all():
                    raise not_finite(path, meta)
                else:
                    acts_td = acts_td[normal.numpy()]
            yield acts_td

    def _all_normal(self, shard: ShardInfo, path: str) -> bytearray:
        """A byte for each image of a tar, 1 where an earlier epoch found all its tokens to be normal and
        nobody has written to the file since."""
        found = None if is_url(path) else stamp(path)
        before, known = self._known.get(shard.name, (None, bytearray()))
        if found is None or found != before:
            known = bytearray(shard.n_images)
            self._known[shard.name] = found, known
        return known


def _drawn(
    reservoir: Reservoir,
    sizes: Iterator[int],
    generator: np.random.Generator,
    n_skip: int,
    memory: Memory,
) -> Iterator[TokenBatch]:
    """The batches of an epoch after the first ``n_skip``, which are drawn but not copied."""
    for position, n_tokens in enumerate(sizes):
        slots = reservoir.choose(n_tokens, generator)
        if position >= n_skip:
            acts_bd = memory(n_tokens)
            n_images = reservoir.read(slots, acts_bd)
            yield TokenBatch(acts_bd, n_images)
