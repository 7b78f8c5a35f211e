"""Code table of the discovery images, in the form that every selector reads: a sparse row per unit.

A unit is what a label belongs to: a patch for segmentation, an image for classification.
Suffixes: n units, s latents.
"""

from copy import copy
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.sparse import csc_matrix, csr_matrix

from saev.concepts.pair_scores import Pairs
from saev.concepts.ranked_codes import CodeEntries, RankedEntries, rank_entries


@dataclass(frozen=True)
class LatentStats:
    """How each latent behaves on the normal tokens of the discovery images."""

    rate: Float[np.ndarray, " s"]
    """Share of tokens on which it fires."""
    mean: Float[np.ndarray, " s"]
    """Mean code over the tokens on which it fires; 0 where it never does."""
    largest: Float[np.ndarray, " s"]
    """Largest code seen: the unit of edits."""

    @property
    def alive(self) -> Int[np.ndarray, " a"]:
        """Latents that fired."""
        return np.flatnonzero(self.rate > 0)


class StatsBuilder:
    """Adds up what :class:`LatentStats` needs, batch by batch."""

    def __init__(self, d_sae: int) -> None:
        self.n = 0
        self.fired, self.total, self.largest = (np.zeros(d_sae) for _ in range(3))

    def update(self, z: Float[np.ndarray, "n s"]) -> None:
        self.n += len(z)
        self.fired += (z > 0).sum(0)
        self.total += z.sum(0, dtype=np.float64)
        self.largest = np.maximum(self.largest, z.max(0, initial=0.0))

    def compute(self) -> LatentStats:
        mean = np.divide(
            self.total, self.fired, out=np.zeros_like(self.total), where=self.fired > 0
        )
        return LatentStats(self.fired / max(self.n, 1), mean, self.largest)


class CodeTable:
    """Codes (n units × s latents) by column, with the labels of the units.

    Args:
        codes: sparse, no explicit zeros.
        labels: class of each unit, −1 where there is none (the unit then counts nowhere).
    """

    def __init__(self, codes: csr_matrix | csc_matrix, labels: Shaped[np.ndarray, " n"]) -> None:
        self._known = np.asarray(labels) >= 0
        self.codes = csc_matrix(codes.tocsr()[np.flatnonzero(self._known)])
        self.labels = np.asarray(labels)[self._known].astype(np.int64)

    def relabelled(self, labels: Shaped[np.ndarray, " n"]) -> "CodeTable":
        """The same units under other labels; what labels do not enter is shared.

        Raises:
            ValueError: a label is missing where there was one, or the other way round.
        """
        labels = np.asarray(labels)
        if not np.array_equal(labels >= 0, self._known):
            raise ValueError("labels are missing at other units than before")
        other = copy(self)
        other.labels = labels[self._known].astype(np.int64)
        other.__dict__["ranked"] = self.ranked
        return other

    @property
    def n_units(self) -> int:
        return len(self.labels)

    @property
    def n_fired(self) -> Int[np.ndarray, " s"]:
        """Units on which each latent fires."""
        return np.diff(self.codes.indptr)

    @cached_property
    def ranked(self) -> RankedEntries:
        """Sorted once, whatever the labels."""
        latent = np.repeat(np.arange(len(self.n_fired)), self.n_fired)
        value = self.codes.data.astype(np.float32)
        return rank_entries(
            CodeEntries(latent, self.codes.indices, value, len(self.n_fired), self.n_units)
        )

    def pairs(self, n_classes: int) -> Pairs:
        """Codes joined with labels, for the exact scores of every latent × class."""
        ones, starts = np.ones(self.n_units), np.arange(self.n_units + 1)
        shape = (self.n_units, n_classes)
        return Pairs(self.ranked, csr_matrix((ones, self.labels, starts), shape=shape))

    def dense(self, latents: Int[np.ndarray, " k"]) -> Float[np.ndarray, "n k"]:
        """Codes of a few latents."""
        return np.asarray(self.codes[:, latents].todense())
