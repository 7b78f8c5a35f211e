"""L1 penalties: Σ z‖W_dec‖, and Σ z^p with p falling.

Shapes: `b` tokens, `d` d_model, `s` d_sae, `z` latents held per token.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from saev.sae.encode import BatchCodes
from saev.sae.model import SparseAutoencoder
from saev.sae.objectives.objective import (
    Objective,
    ObjectiveValue,
    Step,
    atom_norms,
    require,
    warmup,
)


class L1Penalty(Objective):
    """‖x̄ − x̄̂‖² + λ Σ_i z_i·‖W_dec,i‖, λ rising linearly over the first steps.

    With atoms of norm 1: Bricken et al. 2023. With free norms: Anthropic's April 2024 update.
    """

    activations = ("relu", "topk", "batch_topk", "jump_relu")
    norm_weighted = True

    def __init__(self, coefficient: float | int, warmup_steps: int = 0) -> None:
        super().__init__()
        require("L1Penalty: coefficient", coefficient >= 0, coefficient, "0 or more")
        require("L1Penalty: warmup_steps", warmup_steps >= 0, warmup_steps, "0 or more")
        self.coefficient, self.warmup_steps = coefficient, warmup_steps

    def forward(self, sae: SparseAutoencoder, step: Step) -> ObjectiveValue:
        found = super().forward(sae, step)
        if self.coefficient > 0:
            penalty = weighted_l1(found.codes, step.W_dec).mean()
            found.terms["sparsity"] = self.weight(step) * penalty
        return found

    def weight(self, step: Step) -> float:
        """λ at this step."""
        return self.coefficient * warmup(step.number, self.warmup_steps)

    def scalars(self, step: Step) -> dict[str, float | Tensor]:
        return {"l1_coefficient": self.weight(step)} if self.coefficient > 0 else {}


def weighted_l1(codes: BatchCodes, W_dec: Float[Tensor, "s d"]) -> Float[Tensor, " b"]:
    """Σ_i |z_i|·‖W_dec,i‖ of each token."""
    return (codes.values.abs() * codes.of_latents(atom_norms(W_dec))).sum(-1)


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
        p_end: float | int,
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

    def forward(self, sae: SparseAutoencoder, step: Step) -> ObjectiveValue:
        due = self.changes_due(step)
        if due > int(self.done):
            old, new = self.history.mean(0)
            self.strength.mul_(old / new.clamp_min(1e-12))
            self.done.fill_(due)
        p, p_next = self.power(due), self.power(due + 1)
        found = super().forward(sae, step)
        penalty = power_sum(found.codes.values, p).mean()
        with torch.no_grad():
            pair = torch.stack([penalty, power_sum(found.codes.values, p_next).mean()])
            self.history[step.number % self.HISTORY] = step.mean_over_ranks(pair.detach())
        weight = self.coefficient * warmup(step.number, self.warmup_steps)
        found.terms["sparsity"] = weight * self.strength * penalty
        return found

    def scalars(self, step: Step) -> dict[str, float | Tensor]:
        return {"p": self.power(self.changes_due(step)), "p_strength": self.strength}


def power_sum(z: Float[Tensor, "b z"], p: float) -> Float[Tensor, " b"]:
    """Σ_i z_i^p over the positive codes of each token."""
    # The slope at 0 is infinite, so inactive latents are taken out before the power.
    firing = z > 0
    return torch.where(firing, torch.where(firing, z, 1.0).pow(p), 0.0).sum(-1)
