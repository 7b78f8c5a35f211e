"""Schedules by optimiser step: the learning rate, what is logged, and when AuxK is computed."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import lightning as L
import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.optim import Optimizer

from saev.sae.objectives.objective import warmup
from saev.training.arguments import AUTO, LearningRate, given_rate

log = logging.getLogger(__name__)

HORIZON_STEPS = 32
"""Steps a plan holds. One read from the device in 32 steps costs nothing measurable."""

CANDIDATES_STEP = 128
"""Five products take as many columns as there are candidates: a power of two can be twice the need, which
matters in large dictionaries."""
LARGE_DICTIONARY = 2**20
"""Weights of one."""


LAW = 0.17
"""Constant of ``adam_rate``; docs/dictionaries.md has the measurements."""


def adam_rate(d_sae: int, tokens_per_step: int, n_steps: float | int) -> float:
    """Peak learning rate of Adam for TopK: 0.17·√(tokens_per_step / d_sae) / n_tokens^¼.

    In the width it is the law of Gao et al. 2024 (arXiv 2406.04093, A.3), in the batch that of
    Malladi et al. 2022 (arXiv 2205.10287); the power of the run's length, n_tokens =
    tokens_per_step · n_steps, is measured here.
    """
    n_tokens = tokens_per_step * n_steps
    return LAW * (tokens_per_step / d_sae) ** 0.5 / n_tokens**0.25


def peak_rate(
    make: Callable[..., Optimizer], d_sae: int, tokens_per_step: int | None, n_steps: float | int
) -> dict[str, float]:
    """``lr`` for the optimiser that ``make`` builds, as a number; empty where it was given none.

    Raises:
        ValueError: "auto" where the tokens of a step are not known.
    """
    lr = given_rate(make)
    if lr is None:
        return {}
    if lr != AUTO:
        return {"lr": float(lr)}
    if tokens_per_step is None:
        raise ValueError(
            f"model.optimizer.lr={AUTO} needs the number of tokens in a batch; set tokens_per_step "
            "of the module, or give a number."
        )
    return {"lr": adam_rate(d_sae, tokens_per_step, n_steps)}


def decay(step: int, total_steps: float | int, fraction: float | int, shape: str) -> float:
    """1 until the last ``fraction`` of the run, then down; it would reach 0 one step after it.

    Args:
        shape: "linear", or "cosine": half a period, flat at both ends.
    """
    if fraction == 0:
        return 1.0
    left = max(0.0, min(1.0, (total_steps - step) / (fraction * total_steps)))
    return left if shape == "linear" else 0.5 - 0.5 * math.cos(math.pi * left)


def rate_factor(total_steps: float | int, d_sae: int, rate: LearningRate) -> Callable[[int], float]:
    """Factor on the optimiser's learning rate by step: warm-up, decay, and the law of the width,
    √(reference_width / d_sae) (Gao et al. 2024, A.3).
    """
    law = ((rate.reference_width or d_sae) / d_sae) ** 0.5
    if 0 < total_steps < rate.warmup_steps:
        log.warning(
            "the learning rate rises for %d steps (model.learning_rate.warmup_steps) and the run has %d: "
            "it ends at %.0f %% of its peak",
            rate.warmup_steps, total_steps, 100 * total_steps / rate.warmup_steps,
        )  # fmt: skip

    def factor(step: int) -> float:
        rise = warmup(step, rate.warmup_steps)
        return law * rise * decay(step, total_steps, rate.decay_fraction, rate.decay_shape)

    return factor


def by_factor(
    named: Iterable[tuple[str, nn.Parameter]], factors: Mapping[str, float]
) -> dict[float, list[nn.Parameter]]:
    """Trained parameters by the factor on their learning rate: 1, which comes first, or another."""
    groups: dict[float, list[nn.Parameter]] = {1.0: []}
    for name, parameter in named:
        if parameter.requires_grad:
            groups.setdefault(float(factors.get(name, 1.0)), []).append(parameter)
    return groups


def is_logged(trainer: L.Trainer, n_steps_done: int) -> bool:
    """Whether values logged in the step that makes it ``n_steps_done`` reach the loggers."""
    every = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue] set at run time
    return n_steps_done % every == 0


class AuxPlan(NamedTuple):
    """Whether AuxK has to be computed, decided without asking the device at every step.

    Holds for the steps before ``until_step`` with batches of at most ``n_tokens``.
    """

    until_step: int
    n_tokens: int
    n_candidates: int
    """At most so many latents can be dead in that time; 0: AuxK would be 0 and is left out."""

    def covers(self, step: int, n_tokens: int) -> bool:
        """Whether the plan still holds."""
        return step < self.until_step and n_tokens <= self.n_tokens


def make_plan(
    since_fired: Int[Tensor, " s"],
    dead_after_tokens: int,
    step: int,
    n_tokens: int,
    d_model: int,
) -> AuxPlan:
    """Look ``HORIZON_STEPS`` ahead: which latents may be inactive for long enough to be dead by then?

    The number is rounded up so that shapes change rarely: to a power of two, in a large dictionary from
    ``CANDIDATES_STEP`` on to a multiple of that. Reads one number from the device.
    """
    ahead = (HORIZON_STEPS - 1) * n_tokens
    n_may_be_dead = int((since_fired + ahead >= dead_after_tokens).sum().item())
    n_candidates = 0
    if n_may_be_dead > 0:
        unit = 1 << (n_may_be_dead - 1).bit_length()
        if d_model * len(since_fired) >= LARGE_DICTIONARY:
            unit = min(unit, CANDIDATES_STEP)
        n_candidates = min(len(since_fired), -(-n_may_be_dead // unit) * unit)
    return AuxPlan(step + HORIZON_STEPS, n_tokens, n_candidates)


def candidates(since_fired: Int[Tensor, " s"], n: int) -> Int[Tensor, " n"]:
    """The n latents that have been inactive longest, which include every dead one."""
    return torch.sort(since_fired, descending=True, stable=True).indices[:n]
