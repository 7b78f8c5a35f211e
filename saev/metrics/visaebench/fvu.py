"""M2, variance that a reconstruction leaves.

Suffixes: n images, p patches, d width, r bootstrap draws.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


class UnexplainedVariance(NamedTuple):
    """Sums over the tokens of each image; those of several batches are put one after the other."""

    sums_n4: Float[np.ndarray, "n 4"]
    """Σx, Σx², Σ(x − x̂), Σ(x − x̂)² over patches and dimensions."""
    n_tokens: int
    """Per image."""
    width: int

    @property
    def value(self) -> float:
        """As the benchmark computes it: see :func:`fvu`."""
        return self._over(len(self.sums_n4) * self.n_tokens)

    @property
    def documented(self) -> float:
        """As the benchmark describes it, Var(x − x̂) / Var(x) over all entries: at least 0."""
        return self._over(len(self.sums_n4) * self.n_tokens * self.width)

    def resampled(self, weight_rn: Float[np.ndarray, "r n"]) -> Float[np.ndarray, " r"]:
        """The value under weights of images, exactly."""
        return _ratios(weight_rn @ self.sums_n4, weight_rn.sum(1) * self.n_tokens)

    def _over(self, n: int) -> float:
        return float(_ratios(self.sums_n4.sum(0, keepdims=True), np.array([float(n)]))[0])


def fvu(x_npd: Float[Tensor, "n p d"], x_hat_npd: Float[Tensor, "_ _ _"]) -> UnexplainedVariance:
    """FVU = (E‖r‖² − (E Σ_d r_d)²) / (E‖x‖² − (E Σ_d x_d)²), r = x − x̂, E over tokens.

    This is what the code computes: its sums run over dimensions and it divides by tokens, so the
    second terms are d times those of a variance. They vanish where x has mean 0, as normalised
    activations do, and x̂ too. Elsewhere the value is not bounded by 0: the mean error 1ᵀE r lowers
    it, and adding t to every entry of x̂ lowers it by d·(d − 1)·t²/E‖x‖². ``documented`` is free of
    this. inf where the divisor is not positive.

    Null value: predicting the mean gives 1 where x has mean 0, and so does x̂ = 0; a reconstruction
    of another token (``shuffled_reconstructions``) gives 1 + E‖x̂‖²/E‖x‖². 0 for a perfect one.
    Source: ViSAEBench 0.1.0, M2, on shards of activations; given a tensor (n, p, d) it divides by
    images in place of tokens.

    Raises:
        ValueError: x and x̂ of different shapes.
    """
    if x_npd.shape != x_hat_npd.shape:
        raise ValueError(f"x is {tuple(x_npd.shape)} and x̂ {tuple(x_hat_npd.shape)}: one shape.")
    x, r = x_npd.double().flatten(1), x_npd.double().flatten(1) - x_hat_npd.double().flatten(1)
    sums = torch.stack([x.sum(1), x.square().sum(1), r.sum(1), r.square().sum(1)], 1)
    return UnexplainedVariance(sums.numpy(force=True), x_npd.shape[1], x_npd.shape[2])


def shuffled_reconstructions(
    x_hat_npd: Float[Tensor, "n p d"], generator: torch.Generator
) -> Float[Tensor, "n p d"]:
    """The null of M2: reconstructions dealt out to other tokens of all images."""
    tokens = x_hat_npd.flatten(0, 1)
    order = torch.randperm(len(tokens), generator=generator)
    return tokens[order].reshape(x_hat_npd.shape)


def _ratios(
    sums_r4: Float[np.ndarray, "r 4"], n_r: Float[np.ndarray, " r"]
) -> Float[np.ndarray, " r"]:
    total, squares, total_r, squares_r = (sums_r4 / n_r[:, None]).T
    variance, left = squares - total**2, squares_r - total_r**2
    return np.where(variance > 0, left / np.where(variance > 0, variance, 1), np.inf)
