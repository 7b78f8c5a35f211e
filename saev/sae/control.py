"""Aiming a penalty's weight at an L0."""

import torch
from jaxtyping import Float
from torch import Tensor


def next_log_coefficient(
    log_coefficient: Float[Tensor, ""],
    l0: Float[Tensor, ""],
    target: float | int,
    rate: float | int,
) -> Float[Tensor, ""]:
    """log λ one step later: + rate·log(L0 / target), the logarithm limited to ±1.

    In equilibrium L0 is the target whatever the scale of the loss; λ grows e-fold in 1/rate steps
    while L0 is more than e times too large.
    """
    ratio = (l0.clamp_min(1e-3) / target).log().clamp(-1, 1)
    return log_coefficient + rate * ratio


def lagged(average: Float[Tensor, ""], new: Float[Tensor, ""], share: float) -> Tensor:
    """Moving average with ``share`` for the new value; negative means there is none yet."""
    return torch.where(average < 0, new, torch.lerp(average, new, share))
