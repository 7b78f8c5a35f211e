"""Factors on the learning rate and on the sparsity penalty, by optimiser step."""

import math

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
