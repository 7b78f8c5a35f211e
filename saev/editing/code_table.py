"""Codes of the discovery images in a form that every selector reads: sparse, one row per unit.

A unit is what a label belongs to: a patch for segmentation, an image for classification.
Suffixes: n units, s latents, c classes.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.sparse import csc_matrix, csr_matrix, vstack


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
        keep = np.flatnonzero(np.asarray(labels) >= 0)
        self.codes = csc_matrix(codes.tocsr()[keep])
        self.labels = np.asarray(labels)[keep].astype(np.int64)

    @classmethod
    def stack(cls, parts: list[csr_matrix], labels: Shaped[np.ndarray, " n"]) -> "CodeTable":
        """From the batches of one pass."""
        return cls(csr_matrix(vstack(parts)), labels)

    @property
    def n_units(self) -> int:
        return len(self.labels)

    def column(self, latent: int) -> tuple[Int[np.ndarray, " k"], Float[np.ndarray, " k"]]:
        """Units on which a latent fires and its codes there, strongest first."""
        span = slice(self.codes.indptr[latent], self.codes.indptr[latent + 1])
        codes = np.asarray(self.codes.data)[span]
        order = np.argsort(np.negative(codes), kind="stable")
        return self.codes.indices[span][order], self.codes.data[span][order]

    def dense(self, latents: Int[np.ndarray, " k"]) -> Float[np.ndarray, "n k"]:
        """Codes of a few latents."""
        return np.asarray(self.codes[:, latents].todense())
