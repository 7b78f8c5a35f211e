"""Permutation tests and effect sizes; scipy does the work.

Suffixes: r draws of a control, n images, h hypotheses.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

N_FLIPS = 9999
MAX_SIGNS = 2**22
"""Signs held at once: 32 MB."""


def rank_p(
    observed: float | Float[np.ndarray, "*k"], null: Float[np.ndarray, " r"], rounding: float = 0.0
) -> Float[np.ndarray, "*k"]:
    """p = (1 + #{null ≥ observed}) / (R + 1): exact when the observed one is exchangeable with the
    draws (Phipson & Smyth 2010). Never below 1 / (R + 1); nan where either side is nan.

    ``rounding``: an observed value that is smaller by less counts as equal, where the two sides were
    not computed to the same last bit.
    """
    observed_k = np.asarray(observed)
    n_at_least = len(null) - np.searchsorted(np.sort(null), observed_k - rounding)
    known = ~(np.isnan(observed_k) | np.isnan(null).any())
    return np.where(known, (1 + n_at_least) / (1 + len(null)), np.nan)


def max_null(
    null: Float[np.ndarray, " r"], n_best_of: int, rng: np.random.Generator
) -> Float[np.ndarray, " r"]:
    """The null of the best of ``n_best_of``: per draw the largest of so many of the null's values.

    For a latent that was the best of several *on the test images*; a latent chosen on the discovery
    images alone needs no such correction.
    """
    if n_best_of == 1:
        return null
    picks = np.stack([rng.choice(len(null), n_best_of, replace=False) for _ in range(len(null))])
    return null[picks].max(1)


def sign_flip_p(
    differences: Float[np.ndarray, " n"], seed: int = 0, n_flips: int = N_FLIPS
) -> float:
    """One-sided paired permutation test that the mean difference is above 0; NaN is left out.

    Exact where all 2ⁿ flips are no more than ``n_flips`` (13 images at 9,999), that many random ones
    otherwise; then p is at least 1 / (n_flips + 1), so h hypotheses at level α need ``draws_needed(α,
    h)`` of them. 1 without a single difference.
    """
    differences = differences[~np.isnan(differences)]
    if not len(differences) or not np.any(differences):
        return 1.0
    result = stats.permutation_test(
        (differences,),
        lambda values, axis: values.mean(axis),
        permutation_type="samples",
        alternative="greater",
        n_resamples=n_flips,
        batch=max(1, MAX_SIGNS // len(differences)),
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def cliffs_delta(one: Float[np.ndarray, " n"], other: Float[np.ndarray, " m"]) -> float:
    """P(one > other) − P(one < other), from −1 to 1; 0 when the two are equal in distribution."""
    one, other = one[~np.isnan(one)], other[~np.isnan(other)]
    if not len(one) or not len(other):
        return math.nan
    u = stats.mannwhitneyu(one, other, method="asymptotic").statistic if _vary(one, other) else None
    return 0.0 if u is None else float(2 * u / (len(one) * len(other)) - 1)


def _vary(one: np.ndarray, other: np.ndarray) -> bool:
    return float(np.ptp(np.concatenate([one, other]))) > 0


def smallest_detectable(
    null: Float[np.ndarray, " r"], standard_error: float, alpha: float, power: float = 0.8
) -> float:
    """The smallest true effect that would have been called with this power: the null's 1 − α
    quantile plus z(power) standard errors of the estimate."""
    threshold = float(np.quantile(null, 1 - alpha, method="higher"))
    return threshold + float(stats.norm.ppf(power)) * standard_error


def dose_response(doses: Sequence[float], effects: Sequence[float]) -> float:
    """Spearman's ρ of |dose| and effect; NaN when one of them does not vary."""
    sizes, values = np.abs(np.asarray(doses, float)), np.asarray(effects, float)
    if len(sizes) < 3 or np.ptp(sizes) == 0 or np.ptp(values) == 0:
        return math.nan
    return float(stats.spearmanr(sizes, values)[0])  # pyright: ignore[reportArgumentType]
