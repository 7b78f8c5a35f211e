"""Held-out tokens, in order, once.

Shape legend: b batch, d width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch.utils.data import IterableDataset

from datamodules.activations.format import Manifest, is_url
from datamodules.activations.stream import Memory, TokenBatch, new_memory, place_of
from datamodules.activations.tar import iter_samples
from datamodules.activations.verify import Stamp, has_changed
from saev.errors import UserError

if TYPE_CHECKING:
    from datamodules.activations.remote import RemoteShards


class HeldoutTokens(IterableDataset[TokenBatch]):
    """Batches of all held-out tokens, normal or not, in the order of the tars.

    Each rank gets a contiguous part, in equally many batches on every rank (a rank that ran out
    first would leave the others waiting). Meant for one worker at most.
    """

    def __init__(
        self,
        location: str | Path,
        manifest: Manifest,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        stamps: Mapping[str, Stamp] | None = None,
        remote: RemoteShards | None = None,
    ) -> None:
        if batch_size < min(world_size, 2):
            least = "2 tokens on several ranks" if world_size > 1 else "1 token"
            raise ValueError(f"data.val_batch_size={batch_size} must be at least {least}.")
        self.location, self.manifest, self.batch_size = location, manifest, batch_size
        self.stamps, self.remote = dict(stamps or {}), remote
        self.shards = manifest.of_split("heldout")
        n_tokens = sum(shard.n_tokens for shard in self.shards)
        if n_tokens < world_size:
            raise UserError(
                f"{location} has no held-out tokens to validate on; "
                "record with images.val_fraction above 0 or a val or test folder."
            )
        self.start = n_tokens * rank // world_size
        self.stop = n_tokens * (rank + 1) // world_size
        largest_part = -(-n_tokens // world_size)
        n_full = (largest_part - 1) // batch_size
        self.sizes = [batch_size] * n_full + [self.stop - self.start - batch_size * n_full]
        if self.sizes[-1] == 0:  # one token short of the rank with the largest part
            self.sizes[-2:] = [batch_size - 1, 1]

    def __iter__(self) -> Iterator[TokenBatch]:
        return self.batches(new_memory(self.manifest))

    def batches(self, memory: Memory) -> Iterator[TokenBatch]:
        """The same, each batch written where ``memory`` says when it is due."""
        rows = self._rows()
        rest = np.empty((0, 0))
        for size in self.sizes:
            pieces: list[np.ndarray] = []
            acts_bd = memory(size)
            while size:
                if not len(rest):
                    rest = next(rows)
                pieces.append(rest[:size])
                rest = rest[size:]
                size -= len(pieces[-1])
            np.concatenate(pieces, out=acts_bd.numpy())
            yield TokenBatch(acts_bd, len(pieces))
        next(rows, None)  # to the end of the last tar, where it is compared with the manifest

    def _rows(self) -> Iterator[np.ndarray]:
        """This rank's part of each image that has one; tars without any are not opened."""
        first = 0  # of the next image, counted over all held-out tokens
        for shard in self.shards:
            if first + shard.n_tokens <= self.start or first >= self.stop:
                first += shard.n_tokens
                continue
            where, shard = place_of(self.location, shard, self.remote)
            changed = is_url(where) or has_changed(where, shard, self.stamps)
            rows = self.manifest.rows
            for sample in iter_samples(where, shard, rows, checksum=changed):
                acts = sample.acts[max(0, self.start - first) : max(0, self.stop - first)]
                first += len(sample.acts)
                if len(acts):
                    yield acts
