"""Factor on the learning rate, by optimiser step."""

import math
from collections.abc import Callable

from saev.sae.objectives.objective import warmup
from saev.training.arguments import LearningRate


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

    def factor(step: int) -> float:
        rise = warmup(step, rate.warmup_steps)
        return law * rise * decay(step, total_steps, rate.decay_fraction, rate.decay_shape)

    return factor
