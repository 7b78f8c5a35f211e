"""Vectors in memory, whatever they come from, as the trainer of a dictionary sees them.

Shapes: `n` vectors, `b` of a batch, `d` width.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.activations.format import Statistics
from datamodules.activations.norms import array_statistics, check_multiple, token_norms
from datamodules.activations.position import StreamPosition
from datamodules.activations.stream import TokenBatch
from saev.errors import UserError

PIECE = 65_536
"""Rows looked at together while statistics are taken, and held-out rows that validation looks at at
most."""


class InMemoryActivations(StreamPosition):
    """Batches of the rows of an array, held out from it the last ones of a seeded order.

    The array is not copied: a ``numpy.memmap`` larger than memory works, only the rows of a batch
    are read. In each epoch every normal training row comes once, in an order of its own.

    Args:
        rows: raw activations, a floating-point tensor or array.
        batch_size: rows per batch and rank.
        val_fraction: share of rows held out.
        max_norm: rows above this multiple of the median norm do not train; None: no limit.
        seed: of which rows are held out, and of their order.

    Raises:
        UserError: another shape or kind of number, values that are not finite, fewer training rows
            than a batch.
    """

    def __init__(
        self,
        rows: Tensor | np.ndarray,
        batch_size: int,
        *,
        val_fraction: float = 0.1,
        max_norm: float | None = 3.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_multiple(max_norm)
        self.rows = _checked(rows)
        if not 0 <= val_fraction < 1:
            raise UserError(f"val_fraction={val_fraction} must be from 0 to below 1")
        self.batch_size, self.max_norm, self.seed = batch_size, max_norm, seed
        order = np.random.default_rng([seed, 0]).permutation(len(self.rows))
        n_heldout = round(val_fraction * len(order))
        self.heldout, self.training = order[:n_heldout], order[n_heldout:]
        self.has_heldout = n_heldout > 0
        if len(self.training) < batch_size:
            raise UserError(
                f"{len(self.rows):,} rows leave {len(self.training):,} to train on, fewer than a batch "
                f"of {batch_size:,}; give more rows or a smaller batch_size"
            )

    @property
    def width(self) -> int:
        """Numbers per row."""
        return self.rows.shape[1]

    @cached_property
    def statistics(self) -> Statistics:
        """Of the training rows."""
        return array_statistics(lambda: map(self._of, self._pieces(self.training)), self.max_norm)

    @cached_property
    def normal(self) -> np.ndarray:
        """The training rows of normal norm."""
        limit = self.statistics.max_norm
        if limit is None:
            return self.training
        pieces = self._pieces(self.training)
        kept = [ids[(token_norms(self._of(ids)) <= limit).numpy()] for ids in pieces]
        return np.concatenate(kept)

    def prepare_data(self) -> None:
        """Takes the statistics, which reads every row once."""
        _ = self.statistics

    def train_dataloader(self) -> TrainingRows:
        """Endless; each iteration over it begins at the current position."""
        return TrainingRows(self)

    def val_dataloader(self) -> HeldoutRows:
        """The held-out rows in order, once."""
        return HeldoutRows(self)

    def heldout_batches(self) -> list[np.ndarray]:
        """Positions of the held-out rows that validation looks at."""
        ids = np.sort(self.heldout)[:PIECE]
        return [ids[i : i + self.batch_size] for i in range(0, len(ids), self.batch_size)]

    def batch(self, ids: np.ndarray) -> TokenBatch:
        """Some rows in float32."""
        return TokenBatch(torch.from_numpy(self._of(ids)).float(), len(ids))

    def order(self) -> dict[str, Any]:
        """What determines which rows the n-th batch holds."""
        return {
            "rows": list(self.rows.shape),
            "batch_size": self.batch_size,
            "world_size": self.place()[1],
            "seed": self.seed,
            "max_norm": self.max_norm,
        }

    def _of(self, ids: np.ndarray) -> np.ndarray:
        return np.asarray(self.rows[ids])

    def _pieces(self, ids: np.ndarray) -> Iterator[np.ndarray]:
        for first in range(0, len(ids), PIECE):
            yield np.sort(ids[first : first + PIECE])  # a file is read forwards


class TrainingRows:
    """Iterates over training batches for ever."""

    def __init__(self, data: InMemoryActivations) -> None:
        self.data = data

    def __iter__(self) -> Iterator[TokenBatch]:
        data = self.data
        data.begin_iteration()
        (rank, n_ranks), number = data.place(), data.position
        per_epoch = len(data.normal) // (data.batch_size * n_ranks)
        if per_epoch == 0:
            raise UserError(
                f"{len(data.normal):,} normal training rows are fewer than a batch of "
                f"{data.batch_size:,} on each of {n_ranks} devices; give a smaller batch_size"
            )
        epoch, order = -1, data.normal
        while True:
            if number // per_epoch != epoch:
                epoch = number // per_epoch
                order = np.random.default_rng([data.seed, 1, epoch]).permutation(data.normal)
            place = (number % per_epoch * n_ranks + rank) * data.batch_size
            yield data.batch(order[place : place + data.batch_size])
            number += 1


class HeldoutRows:
    """Iterates over the held-out rows once."""

    def __init__(self, data: InMemoryActivations) -> None:
        self.data, self.chunks = data, data.heldout_batches()

    def __len__(self) -> int:
        return len(self.chunks)

    def __iter__(self) -> Iterator[TokenBatch]:
        return map(self.data.batch, self.chunks)


def _checked(rows: Any) -> np.ndarray:
    if isinstance(rows, Tensor):
        rows = rows.detach().cpu()
        rows = (rows.float() if rows.dtype == torch.bfloat16 else rows).numpy()
    if (
        not isinstance(rows, np.ndarray)
        or rows.ndim != 2
        or not np.issubdtype(rows.dtype, np.floating)
    ):
        what = f"{type(rows).__name__} of shape {getattr(rows, 'shape', None)}"
        raise UserError(
            f"activations must be a floating-point tensor or array of shape (n, d), got a {what} and "
            f"type {getattr(rows, 'dtype', None)}"
        )
    return rows
