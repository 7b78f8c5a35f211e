"""Which latents of two dictionaries do the same thing on the same images.

Suffixes: a latents of the first, c latents of the second, r rows (images or tokens).
"""

# scipy types the shape of a sparse array as optional:
# pyright: reportOptionalSubscript=false

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

from saev.metrics.concept_scores import Codes
from saev.metrics.significance import benjamini_hochberg

BLOCK = 512
"""Latents of the first dictionary compared with all of the second at once."""
N_BINS = 10
"""Latents of similar firing rate share one null."""


class Matches(NamedTuple):
    """The best partner of every latent of the first dictionary."""

    partner: Int[np.ndarray, " a"]
    """−1 for a latent that never fires."""
    correlation: Float[np.ndarray, " a"]
    """Pearson correlation of the codes over rows."""
    null: Float[np.ndarray, " a"]
    """95 % level of the best correlation when the second dictionary sees other images."""
    p: Float[np.ndarray, " a"]
    q: Float[np.ndarray, " a"]
    mutual: Bool[np.ndarray, " a"]
    """The partner's best match is this latent."""


def match(
    first: Codes,
    second: Codes,
    *,
    n_draws: int = 20,
    block_rows: int = 1,
    seed: int = 0,
) -> Matches:
    """Best partners, with a mis-paired control.

    In the control the rows of the second dictionary are permuted, ``block_rows`` at a time (tokens
    of one image stay together), so that image i of one meets image j of the other. The null of a
    latent is pooled over the draws of the latents whose firing rates are in the same tenth.

    Null value of the correlation: that control, not 0: it is the best of all latents.
    """
    if first.n_rows != second.n_rows or first.n_rows % block_rows:
        raise ValueError(
            f"both dictionaries must have codes on the same rows, got {first.n_rows} and {second.n_rows}"
        )
    one, two = _standardized(first), _standardized(second)
    correlation, partner = _best(one, two)
    _, back = _best(two, one)
    alive = one.spread > 0
    rng = np.random.default_rng(seed)
    n_blocks = first.n_rows // block_rows
    null = np.empty((n_draws, first.n_latents))
    for draw in range(n_draws):
        order = rng.permutation(n_blocks)
        rows = (order[:, None] * block_rows + np.arange(block_rows)).ravel()
        null[draw] = _best(one, two._replace(scaled=two.scaled[:, rows]))[0]
    level, p = _pooled(
        correlation, null, np.bincount(first.latent, minlength=first.n_latents), alive
    )
    return Matches(
        partner=np.where(alive, partner, -1),
        correlation=np.where(alive, correlation, np.nan),
        null=level,
        p=p,
        q=benjamini_hochberg(p),
        mutual=alive & (back[partner] == np.arange(first.n_latents)),
    )


class _Standard(NamedTuple):
    scaled: sparse.csr_matrix  # a / (σ √n)
    mean: Float[np.ndarray, " a"]  # of that, times √n
    spread: Float[np.ndarray, " a"]


def _standardized(codes: Codes) -> _Standard:
    shape = (codes.n_latents, codes.n_rows)
    matrix = sparse.csr_matrix((codes.value.astype(float), (codes.latent, codes.row)), shape=shape)
    mean = np.asarray(matrix.mean(1)).ravel()
    squares = np.asarray(matrix.multiply(matrix).mean(1)).ravel()
    spread = np.sqrt(np.maximum(squares - mean**2, 0))
    spread[spread < 1e-12 * np.maximum(mean, 1)] = 0
    factor = np.where(spread > 0, 1 / np.maximum(spread, 1e-300), 0)
    scaled = sparse.diags(factor / np.sqrt(codes.n_rows)) @ matrix
    return _Standard(sparse.csr_matrix(scaled), mean * factor, spread)


def _best(one: _Standard, two: _Standard) -> tuple[Float[np.ndarray, " a"], Int[np.ndarray, " a"]]:
    """Largest correlation of each latent with any of the other dictionary, and which it is."""
    values, partners = [], []
    other = two.scaled.T.tocsr()
    silent = two.spread == 0
    for first in range(0, one.scaled.shape[0], BLOCK):
        span = slice(first, first + BLOCK)
        products = (one.scaled[span] @ other).toarray() - np.outer(one.mean[span], two.mean)
        products[:, silent] = -np.inf
        partners.append(products.argmax(1))
        values.append(products.max(1))
    return np.concatenate(values), np.concatenate(partners)


def _pooled(
    observed: Float[np.ndarray, " a"],
    null: Float[np.ndarray, "n a"],
    fired: Int[np.ndarray, " a"],
    alive: Bool[np.ndarray, " a"],
) -> tuple[Float[np.ndarray, " a"], Float[np.ndarray, " a"]]:
    level, p = np.full(len(observed), np.nan), np.full(len(observed), np.nan)
    order = fired[alive].argsort(kind="stable")
    for bin_ in np.array_split(alive.nonzero()[0][order], N_BINS):
        if len(bin_):
            draws = np.sort(null[:, bin_].ravel())
            level[bin_] = np.quantile(draws, 0.95)
            below = np.searchsorted(draws, observed[bin_] - 1e-12)
            p[bin_] = (1 + len(draws) - below) / (1 + len(draws))
    return level, p


def jaccard(one: list[int], two: list[int]) -> float:
    """|A ∩ B| / |A ∪ B| of two lists of images; nan when both are empty."""
    union = set(one) | set(two)
    return len(set(one) & set(two)) / len(union) if union else float("nan")


def bootstrap_auroc(
    value: Float[np.ndarray, " r"],
    label: Bool[np.ndarray, " r"],
    cluster: Int[np.ndarray, " r"],
    n_draws: int = 500,
    seed: int = 0,
) -> Float[np.ndarray, " n"]:
    """AUROC of one latent on resampled images (all rows of a cluster together); nan draws left out."""
    order = value.argsort(kind="stable")
    value, label, cluster = value[order], label[order].astype(float), cluster[order]
    new = np.r_[True, value[1:] != value[:-1]]
    group = new.cumsum() - 1
    n_groups = int(group[-1]) + 1
    n_clusters = int(cluster.max()) + 1
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n_draws):
        weight = np.bincount(rng.integers(0, n_clusters, n_clusters), minlength=n_clusters)[cluster]
        positive = np.bincount(group, weight * label, n_groups)
        negative = np.bincount(group, weight * (1 - label), n_groups)
        total = positive.sum() * negative.sum()
        if total > 0:
            below = negative.cumsum() - negative / 2
            found.append((positive * below).sum() / total)
    return np.array(found)


class Presence(NamedTuple):
    """Whether two dictionaries have a concept."""

    verdict: str
    """both, only_a, only_b, neither or undecided."""
    power: float
    """Chance that a latent as good as the better dictionary's would have been noticed in the other:
    the share of bootstrap draws of its AUROC above the other's 95 % null."""


def presence(
    q_a: float,
    q_c: float,
    draws_a: Float[np.ndarray, " n"],
    draws_c: Float[np.ndarray, " m"],
    level_a: float,
    level_c: float,
    *,
    fdr: float = 0.05,
    min_power: float = 0.8,
) -> Presence:
    """Absence is claimed only where it could have been refuted.

    A concept that one dictionary has (q ≤ fdr) is missing from the other when the other has no
    significant latent, a latent as good as the first's would have been noticed with ``min_power``,
    and the 95 % intervals of the two AUROCs do not meet. Anything less is undecided.
    """
    has_a, has_c = q_a <= fdr, q_c <= fdr
    if has_a and has_c:
        return Presence("both", 1.0)
    if not has_a and not has_c:
        return Presence("neither", float("nan"))
    here, there, level = (draws_a, draws_c, level_c) if has_a else (draws_c, draws_a, level_a)
    if not len(here) or not len(there):
        return Presence("undecided", float("nan"))
    power = float((here > level).mean())
    apart = np.quantile(here, 0.025) > np.quantile(there, 0.975)
    if power >= min_power and apart:
        return Presence("only_a" if has_a else "only_b", power)
    return Presence("undecided", power)
