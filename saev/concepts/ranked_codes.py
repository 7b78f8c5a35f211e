"""Sparse codes as entries, ranked within each latent: where every score starts.

Sorting is the dear part and knows nothing of labels, so it is done once for all labellings.
Suffixes: n stored codes, r rows.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class CodeEntries(NamedTuple):
    """Positive codes, sorted by latent; every (latent, row) at most once. All others are 0."""

    latent: Int[np.ndarray, " n"]
    row: Int[np.ndarray, " n"]
    """An image or a patch."""
    value: Float[np.ndarray, " n"]
    n_latents: int
    n_rows: int

    def on(self, rows: Int[np.ndarray, " r"]) -> "CodeEntries":
        """Restricted to some rows, which are renumbered in the order given."""
        place = np.full(self.n_rows, -1, np.int64)
        place[rows] = np.arange(len(rows))
        kept = place[self.row] >= 0
        return CodeEntries(
            self.latent[kept], place[self.row[kept]], self.value[kept], self.n_latents, len(rows)
        )


class RankedEntries(NamedTuple):
    """The same entries, within a latent from the strongest code down."""

    codes: CodeEntries
    place: Int[np.ndarray, " n"]
    """Codes of the latent that are at least as strong, the code itself included."""
    midrank: Float[np.ndarray, " n"]
    """Rank among all rows from the weakest up, from 1, the mean of equals."""


def rank_entries(codes: CodeEntries) -> RankedEntries:
    """Sorts codes in O(n log n)."""
    # the bits of positive float32 numbers order as the numbers do: one integer key, one sort
    strength = codes.value.astype(np.float32).view(np.int32).astype(np.int64)
    order = (codes.latent.astype(np.int64) * 2**32 - strength).argsort(kind="stable")
    ordered = codes._replace(
        latent=codes.latent[order], row=codes.row[order], value=codes.value[order]
    )
    first, last = tie_groups(ordered.latent, ordered.value)
    starts = np.searchsorted(ordered.latent, np.arange(ordered.n_latents))[ordered.latent]
    midrank = ordered.n_rows - ((first + last) / 2 - starts)
    return RankedEntries(ordered, last - starts + 1, midrank)


def tie_groups(
    group: Int[np.ndarray, " n"], value: Float[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """First and last position of each entry's run of equal (group, value)."""
    if not len(group):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    new = np.ones(len(group), bool)
    new[1:] = (group[1:] != group[:-1]) | (value[1:] != value[:-1])
    starts = new.nonzero()[0]
    run = new.cumsum() - 1
    ends = np.append(starts[1:], len(group)) - 1
    return starts[run], ends[run]
