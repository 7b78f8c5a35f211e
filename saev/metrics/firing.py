"""Firing: how often and how strongly latents are active.

Shapes: `b` tokens, `s` d_sae.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric

from saev.metrics.reconstruction import SumsMetric

DENSE_ABOVE = 0.1
"""A latent that fires on more than this share of tokens is dense. With d_sae = 16·d and k = 32 a
latent of average rate fires on about 1 %, so a limit of 1 % would say nothing."""


FEW = 1 / 16
"""Share of codes above 0 below which a CPU lists them to count them by latent: a sum down the columns takes
four times as long for 1 in 100."""


def count_firing(z: Float[Tensor, "b s"]) -> Int[Tensor, " s"]:
    """On how many of the tokens each latent has a code above 0."""
    fired = z > 0
    if fired.device.type != "cpu" or torch.count_nonzero(fired) > FEW * fired.numel():
        return fired.sum(0)
    return torch.bincount(fired.nonzero()[:, 1], minlength=fired.shape[1])


class MeanL0(SumsMetric):
    """Mean number of latents with a code above 0 per token. Null value: k for TopK of any data."""

    higher_is_better = False
    n: Tensor
    active: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_sums(("n", "active"))

    def update(self, z: Float[Tensor, "b s"]) -> None:
        """Add the codes of tokens."""
        self.n += len(z)
        self.active += torch.count_nonzero(z > 0)

    def compute(self) -> Float[Tensor, ""]:
        return self.active / self.n


class MeanL1(SumsMetric):
    """Mean over tokens of Σ_i |z_i|, in normalised units. Null value: 0 for dead latents alone."""

    higher_is_better = False
    n: Tensor
    absolute: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_sums(("n", "absolute"))

    def update(self, z: Float[Tensor, "b s"]) -> None:
        """Add the codes of tokens."""
        self.n += len(z)
        # Rows first, in the dtype of the codes: a float64 copy of all codes would be large.
        self.absolute += torch.linalg.vector_norm(z, 1, dim=-1).double().sum()

    def compute(self) -> Float[Tensor, ""]:
        return self.absolute / self.n


class FiringShares(NamedTuple):
    """Shares of latents; ``dead`` and ``alive`` add up to 1, ``dense`` are part of ``alive``."""

    dead: Float[Tensor, ""]
    """Fired on no token."""
    alive: Float[Tensor, ""]
    """Fired on at least one token."""
    dense: Float[Tensor, ""]
    """Fired on more than ``DENSE_ABOVE`` of the tokens."""


class FiringStatistics(Metric):
    """On how many tokens each latent fires (code above 0); counts are exact integers.

    Null value: an untrained ReLU dictionary on centred data has every latent dense; TopK has a mean
    frequency of k / d_sae whatever it learned. ``dead`` depends on the number of tokens seen: on
    few images more latents look dead than are.
    """

    full_state_update = False
    is_differentiable = False
    n: Tensor
    counts: Tensor

    def __init__(self, d_sae: int) -> None:
        super().__init__(compute_with_cache=False)  # merge_state would leave a stale value
        self.add_state("n", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(d_sae, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, z: Float[Tensor, "b k"], latents: Int[Tensor, "b k"] | None = None) -> None:
        """Add the codes of tokens: of all latents in order, or of these, which differ within a token."""
        self.n += len(z)
        if latents is None:
            self.counts += count_firing(z)
        else:
            self.counts += torch.bincount(latents[z > 0], minlength=len(self.counts))

    def frequencies(self) -> Float[Tensor, " s"]:
        """Share of tokens each latent fires on, of what this rank has seen."""
        return self.counts.double() / self.n

    def compute(self) -> FiringShares:
        frequencies = self.frequencies()
        dead = (self.counts == 0).double().mean()
        return FiringShares(dead, 1 - dead, (frequencies > DENSE_ABOVE).double().mean())
