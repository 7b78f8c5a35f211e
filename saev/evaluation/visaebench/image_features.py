"""What the seven numbers read of a set of images, in raw units, and its way to the benchmark's units.

The benchmark's dictionaries read (x − mean) / deviation, one deviation over all dimensions. Ours bring
a normalisation of their own, so each gets raw x and gives raw x̂, and both are put into the
benchmark's units afterwards; sums over tokens are enough for that.

Suffixes: n images, d width, s latents.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from saev.metrics.visaebench.fvu import UnexplainedVariance
from saev.metrics.visaebench.morans_i import PatchMorans


class BenchmarkUnits(NamedTuple):
    """x ↦ (x − mean) / deviation."""

    mean_d: Float[np.ndarray, " d"]
    deviation: float
    """Of all dimensions together."""


@dataclass(frozen=True)
class ArmFeatures:
    """Of one dictionary."""

    codes_ns: Float[np.ndarray, "n s"]
    """Largest code of each latent over the patches of an image."""
    total_hat_nd: Float[np.ndarray, "n d"]
    """Σ x̂ over tokens."""
    sums_n4: Float[np.ndarray, "n 4"]
    """As in ``UnexplainedVariance``, in raw units."""
    shuffled_n4: Float[np.ndarray, "n 4"]
    """The same with reconstructions of other tokens."""
    patches: PatchMorans | None
    """None where it was not asked for."""


@dataclass(frozen=True)
class ImageFeatures:
    """Of a set of images, for all dictionaries: their normal tokens alone."""

    label_n: Int[np.ndarray, " n"] | None
    """None where an image has none."""
    tokens_n: Float[np.ndarray, " n"]
    """Normal patches."""
    n_patches: int
    """Of an image, normal or not."""
    total_nd: Float[np.ndarray, "n d"]
    """Σ x over tokens."""
    arms: dict[str, ArmFeatures]
    embedding_ne: Float[np.ndarray, "n e"]
    """Mean patch of the backbone's last block."""

    @property
    def units(self) -> BenchmarkUnits:
        """Mean and deviation of these images."""
        n_tokens, width = self.tokens_n.sum(), self.total_nd.shape[1]
        mean_d = self.total_nd.sum(0) / n_tokens
        squares = next(iter(self.arms.values())).sums_n4[:, 1].sum() / n_tokens
        variance = max(float(squares - mean_d @ mean_d) / width, 1e-24)
        return BenchmarkUnits(mean_d, variance**0.5)

    def unexplained(
        self, arm: str, units: BenchmarkUnits, *, shuffled: bool = False
    ) -> UnexplainedVariance:
        """M2 of a dictionary; ``shuffled``: its null. Tokens that are left out count as the mean."""
        found = self.arms[arm]
        mean_d, deviation = units
        _, squares_n, error_n, errors_n = (found.shuffled_n4 if shuffled else found.sums_n4).T
        total_n = self.total_nd.sum(1) - self.tokens_n * mean_d.sum()
        squares_n = squares_n - 2 * self.total_nd @ mean_d + self.tokens_n * (mean_d @ mean_d)
        powers = deviation ** np.array([1, 2, 1, 2])
        sums_n4 = np.stack([total_n, squares_n, error_n, errors_n], 1) / powers
        return UnexplainedVariance(sums_n4, self.n_patches, len(mean_d))

    def pooled(self, units: BenchmarkUnits, arm: str | None = None) -> Float[np.ndarray, "n d"]:
        """Mean x over the tokens of an image, or mean x̂ of a dictionary."""
        total_nd = self.total_nd if arm is None else self.arms[arm].total_hat_nd
        number_n1 = self.tokens_n[:, None]
        mean_nd = np.where(number_n1 > 0, total_nd / np.maximum(number_n1, 1), units.mean_d)
        return ((mean_nd - units.mean_d) / units.deviation).astype(np.float32)
