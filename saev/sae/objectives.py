"""What training minimises apart from AuxK: one class an objective, independent of the decoder.

An objective encodes, decodes and returns its terms; their sum is the loss. Errors and penalties are
averaged over tokens and in normalised units, where E‖x̄‖² = d. What has to survive an interruption
is a buffer.

Shapes: `b` tokens, `d` d_model, `s` d_sae.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saev.sae.config import SAEConfig
from saev.sae.forward import Codes, Encoding, Pass, alone, encode_normalized
from saev.sae.losses import squared_error
from saev.sae.model import SparseAutoencoder
from saev.sae.straight_through import step as heaviside


@dataclass(frozen=True)
class Step:
    """One training step as an objective sees it."""

    x_bar: Float[Tensor, "b d"]
    """What is encoded."""
    target: Float[Tensor, "b d"]
    """What is to be reconstructed: the same, but for a transcoder."""
    W_dec: Float[Tensor, "s d"]
    """The atoms as the decoder's parameterisation gives them."""
    how: Encoding
    number: int = 0
    """Optimiser steps done before."""
    total: float = float("inf")
    """Optimiser steps of the whole run."""
    seed: int = 0
    mean_over_ranks: Callable[[Tensor], Tensor] = alone


class Outcome(NamedTuple):
    """What a step found."""

    out: Pass
    terms: dict[str, Float[Tensor, ""]]
    """Weighted terms of the loss, "reconstruction" among them."""
    error_b: Float[Tensor, " b"]
    """‖x̄ − x̄̂‖² of each token."""
    codes: Codes


class Objective(nn.Module):
    """Base of all objectives, and itself the plain one: ‖x̄ − x̄̂‖²."""

    activations: tuple[str, ...] = ("relu", "topk", "batch_topk", "jump_relu", "gated")
    """Those that it makes sense with."""
    norm_weighted = False
    """Whether its penalty counts a code times the norm of its atom, so that atoms may have any."""
    needs_end = False
    """Whether it has a schedule over the whole run."""

    def check(self, cfg: SAEConfig) -> None:
        """Raises ValueError where the objective does not go with the dictionary."""
        if cfg.activation not in self.activations:
            allowed = " or ".join(self.activations)
            raise ValueError(
                f"objective {type(self).__name__} needs activation {allowed}, got {cfg.activation}."
            )

    def forward(self, sae: SparseAutoencoder, step: Step) -> Outcome:
        codes = encode_normalized(sae, step.x_bar, step.how)
        x_hat = codes.decode(step.W_dec, sae.b_dec)
        error_b = squared_error(step.target, x_hat)
        return Outcome(codes.decoded(x_hat), {"reconstruction": error_b.mean()}, error_b, codes)

    def scalars(self, step: Step) -> dict[str, float | Tensor]:
        """What besides its terms is worth logging at this step."""
        return {}

    def describe(self) -> dict[str, Any]:
        """JSON-able: what stands in a dictionary's recipe."""
        settings = {k: v for k, v in vars(self).items() if _is_plain(k, v)}
        return {"kind": type(self).__name__, **settings}


def _is_plain(name: str, value: Any) -> bool:
    plain = isinstance(value, bool | int | float | str | list | tuple | None)
    return plain and not name.startswith("_") and name != "training"


def warmed(step: Step, n_steps: int) -> float:
    """Linear from 0 to 1 over ``n_steps``, then 1."""
    return min(1.0, (step.number + 1) / n_steps) if n_steps > 0 else 1.0


def atom_norms(W_dec: Float[Tensor, "s d"]) -> Float[Tensor, " s"]:
    """L2 norm of each atom."""
    return torch.linalg.vector_norm(W_dec, dim=1)


def require(name: str, holds: bool, value: object, allowed: str) -> None:
    """Raises ValueError unless ``holds``."""
    if not holds:
        raise ValueError(f"{name} must be {allowed}, got {value}.")


class L1(Objective):
    """‖x̄ − x̄̂‖² + λ Σ_i z_i·‖W_dec,i‖, λ rising linearly over the first steps.

    With atoms of norm 1: Bricken et al. 2023. With free norms: Anthropic's April 2024 update.
    """

    activations = ("relu", "topk", "batch_topk", "jump_relu")
    norm_weighted = True

    def __init__(self, coefficient: float | int, warmup_steps: int = 0) -> None:
        super().__init__()
        require("L1: coefficient", coefficient >= 0, coefficient, "0 or more")
        require("L1: warmup_steps", warmup_steps >= 0, warmup_steps, "0 or more")
        self.coefficient, self.warmup_steps = coefficient, warmup_steps

    def forward(self, sae: SparseAutoencoder, step: Step) -> Outcome:
        found = super().forward(sae, step)
        if self.coefficient > 0:
            penalty = weighted_l1(found.codes, step.W_dec).mean()
            found.terms["sparsity"] = self.weight(step) * penalty
        return found

    def weight(self, step: Step) -> float:
        """λ at this step."""
        return self.coefficient * warmed(step, self.warmup_steps)

    def scalars(self, step: Step) -> dict[str, float | Tensor]:
        return {"l1_coefficient": self.weight(step)} if self.coefficient > 0 else {}


def weighted_l1(codes: Codes, W_dec: Float[Tensor, "s d"]) -> Float[Tensor, " b"]:
    """Σ_i |z_i|·‖W_dec,i‖ of each token."""
    norms = atom_norms(W_dec)
    weights = norms if codes.indices is None else norms[codes.indices]
    return (codes.values.abs() * weights).sum(-1)


class PAnneal(Objective):
    """‖x̄ − x̄̂‖² + λ_p Σ z^p, with p falling from 1 to ``p_end`` in ``n_changes`` equal steps.

    At each change λ is multiplied by the mean of the old over the mean of the new penalty in the
    last 10 steps, so that the strength does not jump. Source: Karvonen et al. 2024
    (arXiv 2408.00113), sec. 4 and their code.

    Args:
        start: share of the run after which p begins to fall.
        end: share of the run at which it has arrived.
    """

    activations = ("relu",)
    needs_end = True
    HISTORY = 10

    def __init__(
        self,
        coefficient: float | int,
        p_end: float | int = 0.2,
        n_changes: int = 10,
        start: float | int = 0.1,
        end: float | int = 0.9,
        warmup_steps: int = 0,
    ) -> None:
        super().__init__()
        require("PAnneal: coefficient", coefficient > 0, coefficient, "positive")
        require("PAnneal: p_end", 0 < p_end <= 1, p_end, "in (0, 1]")
        require("PAnneal: n_changes", n_changes >= 1, n_changes, "at least 1")
        require(
            "PAnneal: start and end", 0 <= start < end <= 1, (start, end), "0 ≤ start < end ≤ 1"
        )
        self.coefficient, self.p_end, self.n_changes = coefficient, p_end, n_changes
        self.start, self.end, self.warmup_steps = start, end, warmup_steps
        self.strength: Tensor
        self.done: Tensor
        self.history: Tensor
        self.register_buffer("strength", torch.ones(()))
        self.register_buffer("done", torch.zeros((), dtype=torch.long))
        self.register_buffer("history", torch.ones(self.HISTORY, 2))

    def power(self, n_changes_done: int) -> float:
        """p after so many changes."""
        return 1 - (1 - self.p_end) * min(n_changes_done, self.n_changes) / self.n_changes

    def changes_due(self, step: Step) -> int:
        """How many changes should have happened before this step."""
        if step.total == float("inf"):
            raise ValueError("PAnneal needs to know the end of the run; set trainer.max_steps.")
        first, last = self.start * step.total, self.end * step.total
        passed = (step.number - first) / (last - first)
        return max(0, min(self.n_changes, int(passed * self.n_changes)))

    def forward(self, sae: SparseAutoencoder, step: Step) -> Outcome:
        due = self.changes_due(step)
        if due > int(self.done):
            old, new = self.history.mean(0)
            self.strength.mul_(old / new.clamp_min(1e-12))
            self.done.fill_(due)
        p, p_next = self.power(due), self.power(due + 1)
        found = super().forward(sae, step)
        penalty = power_sum(found.out.codes, p).mean()
        with torch.no_grad():
            pair = torch.stack([penalty, power_sum(found.out.codes, p_next).mean()])
            self.history[step.number % self.HISTORY] = step.mean_over_ranks(pair.detach())
        weight = self.coefficient * warmed(step, self.warmup_steps)
        found.terms["sparsity"] = weight * self.strength * penalty
        return found

    def scalars(self, step: Step) -> dict[str, float | Tensor]:
        return {"p": self.power(self.changes_due(step)), "p_strength": self.strength}


def power_sum(z: Float[Tensor, "b z"], p: float) -> Float[Tensor, " b"]:
    """Σ_i z_i^p over the positive codes of each token."""
    # The slope at 0 is infinite, so silent latents are taken out before the power.
    firing = z > 0
    return torch.where(firing, torch.where(firing, z, 1.0).pow(p), 0.0).sum(-1)


class TargetL0(Objective):
    """‖x̄ − x̄̂‖² + coefficient·d·(L0/k − 1)², L0 through the step's straight-through gradient.

    Source: Gemma Scope 2 and dictionary-learning's JumpReLU trainer, whose inputs have E‖x‖² = 1,
    hence the factor d. A plain λ·L0 is hard to aim: Adam cancels the scale of λ.
    """

    activations = ("jump_relu",)

    def __init__(self, coefficient: float | int = 1.0) -> None:
        super().__init__()
        require("TargetL0: coefficient", coefficient > 0, coefficient, "positive")
        self.coefficient = coefficient

    def check(self, cfg: SAEConfig) -> None:
        super().check(cfg)
        if cfg.k is None:
            raise ValueError("k must be the L0 to aim at for objective TargetL0, got None.")

    def forward(self, sae: SparseAutoencoder, step: Step) -> Outcome:
        found = super().forward(sae, step)
        l0 = firing(sae, found.codes, step.how).mean()
        every = step.mean_over_ranks(l0.detach())
        # The square of the mean over ranks, with the gradient of this rank's share of it.
        excess = every / float(sae.cfg.k or 1) - 1
        surrogate = excess.square() + 2 * excess / float(sae.cfg.k or 1) * (l0 - l0.detach())
        found.terms["sparsity"] = self.coefficient * sae.cfg.d_model * surrogate
        return found


def firing(sae: SparseAutoencoder, codes: Codes, how: Encoding) -> Float[Tensor, " b"]:
    """L0 of each token, with a gradient to the thresholds."""
    assert codes.pre is not None  # JumpReLU always has them
    return heaviside(codes.pre, sae.threshold, how.bandwidth, how.jump_to_input).sum(-1)


class L0Penalty(Objective):
    """‖x̄ − x̄̂‖² + λ·L0, λ rising linearly. Source: Rajamanoharan et al. 2024 (2407.14435), eq. 9."""

    activations = ("jump_relu",)

    def __init__(self, coefficient: float | int, warmup_steps: int = 0) -> None:
        super().__init__()
        require("L0Penalty: coefficient", coefficient > 0, coefficient, "positive")
        require("L0Penalty: warmup_steps", warmup_steps >= 0, warmup_steps, "0 or more")
        self.coefficient, self.warmup_steps = coefficient, warmup_steps

    def forward(self, sae: SparseAutoencoder, step: Step) -> Outcome:
        found = super().forward(sae, step)
        weight = self.coefficient * warmed(step, self.warmup_steps)
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
        slope: float | int = 4.0,
        pre_coefficient: float | int = 3e-6,
        warmup: float | int = 1.0,
    ) -> None:
        super().__init__()
        require("TanhPenalty: coefficient", coefficient > 0, coefficient, "positive")
        require("TanhPenalty: slope", slope > 0, slope, "positive")
        require("TanhPenalty: pre_coefficient", pre_coefficient >= 0, pre_coefficient, "0 or more")
        require("TanhPenalty: warmup", 0 <= warmup <= 1, warmup, "in [0, 1]")
        self.coefficient, self.slope = coefficient, slope
        self.pre_coefficient, self.warmup = pre_coefficient, warmup

    def forward(self, sae: SparseAutoencoder, step: Step) -> Outcome:
        found = super().forward(sae, step)
        norms = atom_norms(step.W_dec)
        rise = 1.0
        if self.warmup > 0 and step.total < float("inf"):
            rise = min(1.0, (step.number + 1) / (self.warmup * step.total))
        saturating = torch.tanh(self.slope * found.out.codes * norms).sum(-1).mean()
        found.terms["sparsity"] = self.coefficient * rise * saturating
        if self.pre_coefficient > 0:
            assert found.codes.pre is not None  # JumpReLU always has them
            below = (sae.threshold.clamp_min(0) - found.codes.pre).relu() * norms
            found.terms["pre_activation"] = self.pre_coefficient * below.sum(-1).mean()
        return found
