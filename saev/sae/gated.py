"""The objective of gated dictionaries.

Shapes: `b` tokens, `d` d_model, `s` d_sae.
"""

import math

import torch
from torch import Tensor

from saev.sae.control import next_log_coefficient
from saev.sae.losses import squared_error
from saev.sae.model import SparseAutoencoder
from saev.sae.objectives import Objective, Outcome, Step, require, warmed


class GatedL1(Objective):
    """‖x̄ − x̄̂‖² + λ Σ max(π, 0) + ‖x̄ − (max(π, 0)·W_dec + b_dec)‖², π the gate's pre-activations.

    The last term trains the gate, through which the codes have no gradient; in it W_dec and b_dec
    are constants, else the decoder would follow the shrunken gate values. Source: Rajamanoharan et
    al. 2024 (arXiv 2404.16014), eq. 8.

    Where the dictionary has a k, λ is moved until the L0 is k; see ``saev.sae.control``.

    Args:
        coefficient: λ, or where it starts.
        control_rate: speed of that movement per step.
    """

    activations = ("gated",)

    def __init__(
        self,
        coefficient: float | int,
        warmup_steps: int = 0,
        control_rate: float | int = 0.01,
    ) -> None:
        super().__init__()
        require("GatedL1: coefficient", coefficient > 0, coefficient, "positive")
        require("GatedL1: warmup_steps", warmup_steps >= 0, warmup_steps, "0 or more")
        require("GatedL1: control_rate", control_rate > 0, control_rate, "positive")
        self.coefficient, self.warmup_steps = coefficient, warmup_steps
        self.control_rate = control_rate
        self.log_coefficient: Tensor
        self.register_buffer("log_coefficient", torch.tensor(math.log(coefficient)))

    def forward(self, sae: SparseAutoencoder, step: Step) -> Outcome:
        found = super().forward(sae, step)
        assert found.codes.pre is not None  # the gate always has them
        gate = found.codes.pre.relu()
        weight = self.log_coefficient.exp() * warmed(step, self.warmup_steps)
        frozen = gate @ step.W_dec.detach() + sae.b_dec.detach()
        found.terms["sparsity"] = weight * gate.sum(-1).mean()
        found.terms["gate"] = squared_error(step.target, frozen).mean()
        if sae.cfg.k is not None and self.training and torch.is_grad_enabled():
            l0 = step.mean_over_ranks((found.out.codes > 0).float().sum(-1).mean().detach())
            self.log_coefficient.copy_(
                next_log_coefficient(self.log_coefficient, l0, sae.cfg.k, self.control_rate)
            )
        return found

    def scalars(self, step: Step) -> dict[str, float | Tensor]:
        return {"l1_coefficient": self.log_coefficient.exp() * warmed(step, self.warmup_steps)}
