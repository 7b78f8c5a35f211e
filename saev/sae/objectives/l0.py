"""L0 penalties of JumpReLU: an L0 to aim at, a plain weight, and a saturating one.

Shapes: `b` tokens, `d` d_model, `s` d_sae.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from saev.sae.config import SAEConfig
from saev.sae.encode import BatchCodes, Encoding
from saev.sae.model import SparseAutoencoder
from saev.sae.objectives.objective import (
    Objective,
    ObjectiveValue,
    Step,
    atom_norms,
    require,
    warmup,
)
from saev.sae.straight_through import heaviside


class TargetL0(Objective):
    """‖x̄ − x̄̂‖² + coefficient·d·(L0/k − 1)², L0 through the step's straight-through gradient.

    Source: Gemma Scope 2 and dictionary-learning's JumpReLU trainer, whose inputs have E‖x‖² = 1,
    hence the factor d. A plain λ·L0 is hard to aim: Adam cancels the scale of λ.
    """

    activations = ("jump_relu",)

    def __init__(self, coefficient: float | int) -> None:
        super().__init__()
        require("TargetL0: coefficient", coefficient > 0, coefficient, "positive")
        self.coefficient = coefficient

    def check(self, cfg: SAEConfig) -> None:
        super().check(cfg)
        if cfg.k is None:
            raise ValueError("k must be the L0 to aim at for objective TargetL0, got None.")

    def forward(self, sae: SparseAutoencoder, step: Step) -> ObjectiveValue:
        found = super().forward(sae, step)
        l0 = firing(sae, found.codes, step.how).mean()
        every = step.mean_over_ranks(l0.detach())
        # The square of the mean over ranks, with the gradient of this rank's share of it.
        excess = every / float(sae.cfg.k or 1) - 1
        surrogate = excess.square() + 2 * excess / float(sae.cfg.k or 1) * (l0 - l0.detach())
        found.terms["sparsity"] = self.coefficient * sae.cfg.d_model * surrogate
        return found


def firing(sae: SparseAutoencoder, codes: BatchCodes, how: Encoding) -> Float[Tensor, " b"]:
    """L0 of each token, with a gradient to the thresholds."""
    assert codes.pre is not None  # JumpReLU always has them
    threshold = codes.of_latents(sae.threshold)
    fires = heaviside(codes.pre, threshold, how.bandwidth, how.jump_to_input)
    if codes.support is not None and codes.support.held_bk is not None:
        fires = torch.where(codes.support.held_bk, fires, 0.0)
    return fires.sum(-1)


class L0Penalty(Objective):
    """‖x̄ − x̄̂‖² + λ·L0, λ rising linearly. Source: Rajamanoharan et al. 2024 (2407.14435), eq. 9."""

    activations = ("jump_relu",)

    def __init__(self, coefficient: float | int, warmup_steps: int = 0) -> None:
        super().__init__()
        require("L0Penalty: coefficient", coefficient > 0, coefficient, "positive")
        require("L0Penalty: warmup_steps", warmup_steps >= 0, warmup_steps, "0 or more")
        self.coefficient, self.warmup_steps = coefficient, warmup_steps

    def forward(self, sae: SparseAutoencoder, step: Step) -> ObjectiveValue:
        found = super().forward(sae, step)
        weight = self.coefficient * warmup(step.number, self.warmup_steps)
        found.terms["sparsity"] = weight * firing(sae, found.codes, step.how).mean()
        return found


class TanhPenalty(Objective):
    """‖x̄ − x̄̂‖² + λ_S Σ tanh(c·z_i‖W_dec,i‖) + λ_P Σ max(θ_i − pre_i, 0)·‖W_dec,i‖.

    The last term pulls latents that stay below their threshold up again. Source: Anthropic's
    January 2025 update; there λ_S warms up over the whole run.

    Args:
        warmup: share of the run over which λ_S rises linearly.
    """

    activations = ("jump_relu",)
    norm_weighted = True

    def __init__(
        self,
        coefficient: float | int,
        slope: float | int,
        pre_coefficient: float | int,
        warmup: float | int,
    ) -> None:
        super().__init__()
        require("TanhPenalty: coefficient", coefficient > 0, coefficient, "positive")
        require("TanhPenalty: slope", slope > 0, slope, "positive")
        require("TanhPenalty: pre_coefficient", pre_coefficient >= 0, pre_coefficient, "0 or more")
        require("TanhPenalty: warmup", 0 <= warmup <= 1, warmup, "in [0, 1]")
        self.coefficient, self.slope = coefficient, slope
        self.pre_coefficient, self.warmup = pre_coefficient, warmup

    def forward(self, sae: SparseAutoencoder, step: Step) -> ObjectiveValue:
        if self.pre_coefficient > 0:  # which looks at all latents
            step = replace(step, how=replace(step.how, sparse=False))
        found = super().forward(sae, step)
        norms = atom_norms(step.W_dec)
        rise = warmup(step.number, self.warmup * step.total if step.total < float("inf") else 0)
        saturating = (
            torch.tanh(self.slope * found.codes.values * found.codes.of_latents(norms))
            .sum(-1)
            .mean()
        )
        found.terms["sparsity"] = self.coefficient * rise * saturating
        if self.pre_coefficient > 0:
            assert found.codes.pre is not None  # JumpReLU always has them
            below = (sae.threshold.clamp_min(0) - found.codes.pre).relu() * norms
            found.terms["pre_activation"] = self.pre_coefficient * below.sum(-1).mean()
        return found
