"""Trade-off curves: what else changes where an edit has changed so much of its target.

Suffixes: k doses in increasing order, n images, r weightings of the images.
"""

import math

import numpy as np
from jaxtyping import Float


def other_at_target(
    target_kn: Float[np.ndarray, "k n"],
    target_n: Float[np.ndarray, " n"],
    other_kn: Float[np.ndarray, "k n"],
    other_n: Float[np.ndarray, " n"],
    weight_rn: Float[np.ndarray, "r n"],
    level: float,
) -> Float[np.ndarray, " r"]:
    """The share of other units changed where the share of target units changed first reaches a level.

    Shares are Σ weight·hits / Σ weight·units, so units count, not images. The path leads from (0, 0)
    at dose 0 over the doses in straight lines. inf where it never reaches the level; nan where the
    images drawn have no target unit or no other. Images with nan in any array are left out.

    Two arms under the same weights are paired by image; their difference is nan where neither
    reaches the level.

    Args:
        target_kn: units of the target that changed, per dose and image.
        target_n: units of the target.
        other_kn: other units that changed.
        other_n: other units.
        weight_rn: how often each image counts, as of ``image_weights``; ones for the estimate.
        level: in (0, 1].

    Raises:
        ValueError: a level outside (0, 1].
    """
    if not 0 < level <= 1:
        raise ValueError(f"level is {level}: a share above 0 and at most 1 is needed")
    known = ~np.isnan(np.vstack([target_kn, target_n, other_kn, other_n])).any(0)
    weight = weight_rn[:, known]
    target_rk = _path(weight, target_kn[:, known], target_n[known])
    other_rk = _path(weight, other_kn[:, known], other_n[known])
    reaches_rk = target_rk >= level
    end = np.maximum(reaches_rk.argmax(1), 1)  # dose 0 is at (0, 0) and reaches nothing
    row = np.arange(len(weight))
    before, after = target_rk[row, end - 1], target_rk[row, end]
    with np.errstate(divide="ignore", invalid="ignore"):
        part = (level - before) / (after - before)
        other = other_rk[row, end - 1] + part * (other_rk[row, end] - other_rk[row, end - 1])
    unknown = np.isnan(after) | np.isnan(other_rk[row, end])
    return np.where(unknown, math.nan, np.where(reaches_rk.any(1), other, math.inf))


def _path(weight_rn: np.ndarray, hit_kn: np.ndarray, unit_n: np.ndarray) -> np.ndarray:
    """Share changed at dose 0 and at each dose, per weighting; nan without units."""
    units_r1 = (weight_rn @ unit_n)[:, None]
    hits_rk = weight_rn @ hit_kn.T
    share_rk = np.divide(hits_rk, units_r1, out=np.full(hits_rk.shape, np.nan), where=units_r1 > 0)
    return np.column_stack([np.zeros(len(share_rk)), share_rk])
