"""The gated objective: the gate's own L1 and reconstruction, its weight aimed at an L0.

Shapes: `b` tokens, `d` d_model, `s` d_sae.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from saev.sae.model import SparseAutoencoder
from saev.sae.objectives.objective import (
    Objective,
    ObjectiveValue,
    Step,
    require,
    squared_error,
    warmup,
)


class GatedL1(Objective):
    """‖x̄ − x̄̂‖² + λ Σ max(π, 0) + ‖x̄ − (max(π, 0)·W_dec + b_dec)‖², π the gate's pre-activations.

    The last term trains the gate, through which the codes have no gradient; in it W_dec and b_dec
    are constants, else the decoder would follow the shrunken gate values. Source: Rajamanoharan et
    al. 2024 (arXiv 2404.16014), eq. 8.

    Where the dictionary has a k, λ is moved until the L0 is k; see ``next_log_coefficient``.

    Args:
        coefficient: λ, or where it starts.
        control_rate: speed of that movement per step.
        warmup_steps: λ counts in full after so many steps, rising linearly.
    """

    activations = ("gated",)

    def __init__(
        self,
        coefficient: float | int,
        control_rate: float | int,
        warmup_steps: int = 0,
    ) -> None:
        super().__init__()
        require("GatedL1: coefficient", coefficient > 0, coefficient, "positive")
        require("GatedL1: warmup_steps", warmup_steps >= 0, warmup_steps, "0 or more")
        require("GatedL1: control_rate", control_rate > 0, control_rate, "positive")
        self.coefficient, self.warmup_steps = coefficient, warmup_steps
        self.control_rate = control_rate
        self.log_coefficient: Tensor
        self.register_buffer("log_coefficient", torch.tensor(math.log(coefficient)))

    def forward(self, sae: SparseAutoencoder, step: Step) -> ObjectiveValue:
        found = super().forward(sae, step)
        assert found.codes.pre is not None  # the gate always has them
        gate = found.codes._replace(values=found.codes.pre.relu())
        weight = self.log_coefficient.exp() * warmup(step.number, self.warmup_steps)
        frozen = gate.decode(step.W_dec.detach(), sae.b_dec.detach())
        found.terms["sparsity"] = weight * gate.values.sum(-1).mean()
        found.terms["gate"] = squared_error(step.target, frozen).mean()
        if sae.cfg.k is not None and self.training and torch.is_grad_enabled():
            l0 = step.mean_over_ranks((found.codes.values > 0).float().sum(-1).mean().detach())
            self.log_coefficient.copy_(
                next_log_coefficient(self.log_coefficient, l0, sae.cfg.k, self.control_rate)
            )
        return found

    def scalars(self, step: Step) -> dict[str, float | Tensor]:
        return {
            "l1_coefficient": self.log_coefficient.exp() * warmup(step.number, self.warmup_steps)
        }


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
