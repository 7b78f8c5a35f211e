"""Corrections for many tests: the false discovery rate of Benjamini and Hochberg.

Suffixes: h hypotheses, s latents, c concepts.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

ROUNDING = 1e-9
"""Relative: 22 / 0.05 must not need a draw more than 440 − 1 because of the last bit."""


def benjamini_hochberg(p: Sequence[float] | Float[np.ndarray, " h"]) -> Float[np.ndarray, " h"]:
    """Adjusted p-values q: rejecting q ≤ α keeps the expected share of false rejections ≤ α.

    nan stays nan and counts for nothing. Source: Benjamini & Hochberg 1995, as in ``scipy.stats``.
    """
    p_h = np.asarray(p, float)
    q_h = np.full(p_h.shape, np.nan)
    known = ~np.isnan(p_h)
    if known.any():
        q_h[known] = stats.false_discovery_control(p_h[known])
    return q_h


def family_q(
    p_sc: Float[np.ndarray, "s c"], best_c: Float[np.ndarray, " c"]
) -> Float[np.ndarray, "s c"]:
    """q of any latent for a concept, in the family in which each concept is tested once.

    ``best_c`` are the p-values of the latents that were chosen for the concepts; their own q is
    Benjamini–Hochberg's. Another latent's q is the smallest q of a chosen latent with a p at least
    as large as its own, so it never looks better than it would have as the chosen one.
    """
    known = np.sort(best_c[~np.isnan(best_c)])
    if not len(known):
        return np.full(p_sc.shape, np.nan)
    # q(t) = C·t / #{chosen p ≤ t}, made monotone from the right; beyond the last chosen p it is t
    steps = len(known) * known / np.searchsorted(known, known, side="right")
    q_at = np.minimum.accumulate(steps[::-1])[::-1]
    index = np.searchsorted(known, p_sc)
    inside = index < len(known)
    q = np.where(inside, q_at[np.minimum(index, len(known) - 1)], p_sc)
    return np.where(np.isnan(p_sc), np.nan, np.maximum(q, p_sc))


def draws_needed(alpha: float, n_hypotheses: int) -> int:
    """Draws R for which 1 / (R + 1) ≤ α / h: only then can a single true hypothesis survive
    Benjamini–Hochberg over h."""
    return math.ceil(n_hypotheses / alpha - ROUNDING) - 1


def images_needed(alpha: float, n_hypotheses: int) -> int:
    """Images n for which a sign-flip test can reach α / h: 2⁻ⁿ ≤ α / h."""
    return math.ceil(math.log2(n_hypotheses / alpha) - ROUNDING)
