"""p-values that should be uniform: ties broken, and a test of uniformity."""

import numpy as np
from jaxtyping import Float
from scipy import stats


def tie_broken_p(observed: float, null: Float[np.ndarray, " r"], rng: np.random.Generator) -> float:
    """The same with ties broken at random, (#{null > observed} + U·(1 + #{null = observed})) / (R + 1):
    exactly uniform under exchangeability, where ``rank_p`` is too large wherever there are ties. For
    checks of uniformity, not for tests: the same data would give two answers."""
    above, level = int((null > observed).sum()), int((null == observed).sum())
    return (above + float(rng.random()) * (1 + level)) / (len(null) + 1)


def uniformity_p(p_values: Float[np.ndarray, " h"]) -> float:
    """Kolmogorov–Smirnov test that p-values are uniform."""
    return float(stats.kstest(p_values, "uniform").pvalue)
