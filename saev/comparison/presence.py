"""Presence of a concept in a dictionary, and when absence may be claimed.

Suffixes: r rows (images or patches), n bootstrap draws, i images, c concepts, g groups of rows.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import norm

from saev.concepts.max_null import ROUNDING
from saev.stats.bootstrap import image_weights, interval, weighted_auroc

MAX_WEIGHTS = 2**24
"""Weights of rows held at once: 128 MB."""


def bootstrap_auroc(
    value: Float[np.ndarray, " r"],
    label: Bool[np.ndarray, " r"],
    cluster: Int[np.ndarray, " r"],
    n_clusters: int,
    n_draws: int = 500,
    seed: int = 0,
) -> Float[np.ndarray, " n"]:
    """AUROC of one latent on resampled images (all rows of a cluster together).

    Draws of one seed and number of clusters are of the same images, so those of two latents can be
    paired. nan where a draw holds no positive or no negative row.
    """
    weight_ni = image_weights(n_clusters, n_draws, np.random.default_rng(seed))
    n_parts = 1 + n_draws * len(value) // MAX_WEIGHTS
    return np.concatenate(
        [
            weighted_auroc(value, label, part[:, cluster])
            for part in np.array_split(weight_ni, n_parts)
        ]
    )


def rejection_level(
    null: Float[np.ndarray, " p"], n_rejected: int, n_tests: int, fdr: float
) -> float:
    """The AUROC from which on one more concept would be significant next to ``n_rejected`` others.

    Benjamini–Hochberg rejects its (n_rejected + 1)-th p-value up to fdr · (n_rejected + 1) / n_tests;
    ∞ where the permutations are too few to give a p-value that small.
    """
    wanted = fdr * min(n_rejected + 1, n_tests) / n_tests
    allowed = int(np.floor(wanted * (1 + len(null)) + 1e-9)) - 1  # null draws at or above
    if allowed < 0 or np.isnan(null).any():
        return float("inf")
    ordered = np.sort(null)[::-1]
    return float(ordered[allowed]) + 1.001 * ROUNDING if allowed < len(ordered) else 0.0


def planted_power(
    discovery: Float[np.ndarray, " n"],
    test: Float[np.ndarray, " n"],
    rival: float,
    level: float,
) -> float:
    """Chance that a latent would have been found, had the other dictionary held it.

    The latent of the dictionary that has the concept is planted among the latents of the one that
    may lack it. It is found when, on resampled images, it wins the choice on the discovery split
    against their best (``rival``) and passes their test.

    Args:
        discovery: its AUROC on resampled discovery images.
        test: on resampled test images.
        rival: best AUROC on discovery images among the other's latents.
        level: AUROC from which on the other's test would have rejected.
    """
    known = ~(np.isnan(discovery) | np.isnan(test))
    if not known.any():
        return float("nan")
    return float(((discovery > rival) & (test >= level))[known].mean())


def planted_aurocs(
    label: Bool[np.ndarray, " r"],
    cluster: Int[np.ndarray, " r"],
    auroc: float,
    n_draws: int = 500,
    seed: int = 0,
) -> Float[np.ndarray, " n"]:
    """AUROC that a latent of the true AUROC ``auroc`` would show on these rows, drawn again and again.

    Its code is normal, shifted where the concept is; rows of one image with one label share their
    value, as patches of one thing nearly do. That makes the spread as wide as the number of images
    and so the power, if anything, too small. nan where one side is empty.
    """
    group, number, size = np.unique(2 * cluster + label, return_index=True, return_counts=True)
    positive = label[number]
    if not len(group) or positive.all() or not positive.any():
        return np.full(n_draws, np.nan)
    shift = np.sqrt(2) * norm.ppf(auroc)
    rng = np.random.default_rng(seed)
    value_ng = rng.standard_normal((n_draws, len(group))) + shift * positive
    order = value_ng.argsort(1)
    below = np.cumsum((size * ~positive)[order], 1)
    pairs = size[positive].sum() * size[~positive].sum()
    return ((size * positive)[order] * below).sum(1) / pairs


class ConceptEvidence(NamedTuple):
    """What one dictionary shows of one concept."""

    q: float
    """Of its best latent on the test split."""
    test: Float[np.ndarray, " n"]
    """Bootstrap draws of that latent's AUROC."""
    power_of_other: float
    """Chance that the other dictionary's latent would have been found here."""
    power_of_least: float
    """Chance that a latent of the least AUROC that counts would have been found here."""


class Presence(NamedTuple):
    """Whether two dictionaries have a concept."""

    verdict: str
    """both, only_a, only_b, neither or undecided."""
    power: float
    """Of noticing it in the dictionary without; the smaller one where neither has it, of a latent of
    the least AUROC that counts; nan where both have it."""
    difference: tuple[float, float]
    """95 % interval of AUROC a − AUROC b, on the same resampled images."""


def presence(
    a: ConceptEvidence, b: ConceptEvidence, *, fdr: float = 0.05, min_power: float = 0.8
) -> Presence:
    """Absence is claimed only where it could have been refuted.

    A concept that one dictionary has (q ≤ fdr) is missing from the other when the other has no
    significant latent, the first's latent would have been found there with ``min_power``, and the
    95 % interval of the difference of their AUROCs lies off 0. Neither has it when a latent of the
    least AUROC that counts would have been found in both with ``min_power``. Anything less is
    undecided.
    """
    difference = low, high = interval(a.test - b.test)
    has_a, has_b = a.q <= fdr, b.q <= fdr
    if has_a and has_b:
        return Presence("both", float("nan"), difference)
    if not has_a and not has_b:
        power = float(np.minimum(a.power_of_least, b.power_of_least))
        return Presence("neither" if power >= min_power else "undecided", power, difference)
    power = b.power_of_other if has_a else a.power_of_other
    apart = low > 0 if has_a else high < 0
    if apart and power >= min_power:
        return Presence("only_a" if has_a else "only_b", power, difference)
    return Presence("undecided", power, difference)


def thinned_auroc(
    value: Float[np.ndarray, " r"],
    label: Bool[np.ndarray, " r"],
    n_positive: int,
    n_draws: int = 50,
    seed: int = 0,
) -> Float[np.ndarray, " n"]:
    """AUROC of one latent when only ``n_positive`` of the positive rows are kept, drawn at random."""
    negative, own = np.sort(value[~label]), value[label]
    below = np.searchsorted(negative, own, "left") + np.searchsorted(negative, own, "right")
    share = below / 2 / max(len(negative), 1)
    rng = np.random.default_rng(seed)
    return np.array(
        [share[rng.choice(len(own), n_positive, replace=False)].mean() for _ in range(n_draws)]
    )
