"""Schedules: factors on the learning rate and on the sparsity penalty, by optimiser step."""

import math
from collections.abc import Callable, Mapping
from typing import Any

DECAY_SHAPES = ("linear", "cosine")


def warmup(step: int, n_steps: int) -> float:
    """Linear from 1/n at step 0 to 1 at step n − 1, then 1; ``n_steps=0`` is no warm-up."""
    return min(1.0, (step + 1) / n_steps) if n_steps > 0 else 1.0


def decay(
    step: int, total_steps: float | int, fraction: float | int, shape: str = "linear"
) -> float:
    """1 until the last ``fraction`` of the run, then down; it would reach 0 one step after it.

    Args:
        shape: "linear", or "cosine": half a period, flat at both ends.
    """
    if fraction == 0:
        return 1.0
    left = max(0.0, min(1.0, (total_steps - step) / (fraction * total_steps)))
    return left if shape == "linear" else 0.5 - 0.5 * math.cos(math.pi * left)


def learning_rate(
    total_steps: float | int, d_sae: int, arguments: Mapping[str, Any]
) -> Callable[[int], float]:
    """Factor on the optimiser's learning rate by step: warm-up, decay, and the law of the width,
    √(lr_reference_width / d_sae) (Gao et al. 2024, A.3).

    Args:
        arguments: the ``lr_…`` arguments of ``SAETraining``.
    """
    law = ((arguments["lr_reference_width"] or d_sae) / d_sae) ** 0.5
    fraction, shape = arguments["lr_decay_fraction"], arguments["lr_decay_shape"]

    def factor(step: int) -> float:
        rise = warmup(step, arguments["lr_warmup_steps"])
        return law * rise * decay(step, total_steps, fraction, shape)

    return factor
