"""Bootstrap over images: weights, 95 % intervals, AUROC under weights.

Drawing images with replacement is weighting each by how often it was drawn, so whatever takes
weights can be resampled. Suffixes: r bootstrap draws, n images or rows.
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

N_BOOTSTRAP = 2000
TAILS = (0.025, 0.975)


def image_weights(
    n_images: int, n_draws: int, rng: np.random.Generator
) -> Float[np.ndarray, "r n"]:
    """How often each image is in each draw of ``n_images`` with replacement."""
    return rng.multinomial(n_images, np.full(n_images, 1 / n_images), n_draws).astype(np.float64)


def interval(drawn_r: Float[np.ndarray, " r"]) -> tuple[float, float]:
    """The 2.5th and the 97.5th percentile without nan; nan where nothing is left."""
    known = drawn_r[~np.isnan(drawn_r)]
    if not len(known):
        return math.nan, math.nan
    low, high = np.quantile(known, TAILS)
    return float(low), float(high)


def bootstrap_interval(
    effect_of: Callable[[np.ndarray], np.ndarray], n_images: int, seed: int = 0
) -> tuple[float, float, float]:
    """95 % interval and standard error of an effect under resampling of images.

    ``effect_of`` maps weights (r, n) to effects (r,); draws without an effect (nan) are left out.
    """
    effects = effect_of(image_weights(n_images, N_BOOTSTRAP, np.random.default_rng(seed)))
    known = effects[~np.isnan(effects)]
    return *interval(known), float(known.std()) if len(known) else math.nan


def weighted_auroc(
    value_n: Float[np.ndarray, " n"],
    label_n: Bool[np.ndarray, " n"],
    weight_rn: Float[np.ndarray, "r n"],
) -> Float[np.ndarray, " r"]:
    """P(value of a positive > of a negative) + ½ P(equal) for each row of weights; nan without
    weight on either side. Null value ½."""
    if not len(value_n):
        return np.full(len(weight_rn), np.nan)
    order = value_n.argsort(kind="stable")
    value_n, label_n, weight_rn = value_n[order], label_n[order], weight_rn[:, order]
    starts = np.concatenate([[0], np.diff(value_n).nonzero()[0] + 1])
    positive_rg = np.add.reduceat(weight_rn * label_n, starts, axis=1)
    negative_rg = np.add.reduceat(weight_rn * ~label_n, starts, axis=1)
    below_rg = negative_rg.cumsum(1) - negative_rg / 2
    pairs = positive_rg.sum(1) * negative_rg.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (positive_rg * below_rg).sum(1) / np.where(pairs > 0, pairs, np.nan)
