"""Matching: latents of two dictionaries that fire alike on the same images.

Suffixes: a latents of the first, c latents of the second, b images, r rows (images or tokens).
"""

# scipy types the shape of a sparse array as optional:
# pyright: reportOptionalSubscript=false

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import sparse

from saev.comparison.strata import mispaired
from saev.concepts.ranked_codes import CodeEntries
from saev.stats.correction import benjamini_hochberg
from saev.stats.tests import rank_p

BLOCK = 1024
"""Latents of the first dictionary compared with all of the second at once."""
N_BINS = 10
"""Latents of similar firing rate share one null."""
ROUNDING = 1e-6
"""Correlations are products in float32: those that differ by less are equal."""
SPARSE_BELOW = 0.03
"""Share of codes above 0 below which sparse products are faster than dense ones: tokens, not images."""


class Matches(NamedTuple):
    """The best partner of every latent of the first dictionary."""

    partner: Int[np.ndarray, " a"]
    """−1 for a latent that never fires."""
    similarity: Float[np.ndarray, " a"]
    """Pearson correlation of the codes, or Jaccard index of the exemplars."""
    null: Float[np.ndarray, " a"]
    """95 % level of the best similarity when the second dictionary sees other images of the same
    strata."""
    p: Float[np.ndarray, " a"]
    q: Float[np.ndarray, " a"]
    mutual: Bool[np.ndarray, " a"]
    """The partner's best match is this latent."""


def match(
    first: CodeEntries,
    second: CodeEntries,
    *,
    strata: Int[np.ndarray, " b"] | None = None,
    n_draws: int = 20,
    block_rows: int = 1,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> tuple[Matches, Matches]:
    """Best partners by correlation of codes, both ways, with a mis-paired control.

    In the control the rows of the second dictionary are permuted, ``block_rows`` at a time (tokens
    of one image stay together), so that image i of one meets image j of the other. The null of a
    latent is pooled over the draws of the latents whose firing rates are in the same tenth.

    Args:
        first: codes of the first dictionary.
        second: of the second, on the same rows.
        strata: of every image, within which they are permuted (``strata.like_images``); None: all
            images are alike.
        n_draws: permutations.
        block_rows: rows of an image.

    Null value of the correlation: that control, not 0: it is the best of all latents.

    Raises:
        ValueError: codes on different rows, or a number of rows that is no multiple of ``block_rows``.
    """
    if first.n_rows != second.n_rows or first.n_rows % block_rows:
        raise ValueError(
            f"both dictionaries must have codes on the same rows, got {first.n_rows} and "
            f"{second.n_rows} in blocks of {block_rows}"
        )
    one, two = _standardized(first), _standardized(second)

    def best(order: Int[np.ndarray, " r"] | None) -> "_Best":
        other = two if order is None else two._replace(scaled=two.scaled[:, order])
        return _best_of(_correlations(one, other, device))

    return _two_ways(
        best, _strata(strata, first.n_rows // block_rows), block_rows, n_draws, seed,
        (_count(first), one.spread > 0), (_count(second), two.spread > 0),
    )  # fmt: skip


def match_exemplars(
    first: list[list[int]],
    second: list[list[int]],
    n_images: int,
    *,
    strata: Int[np.ndarray, " b"] | None = None,
    n_draws: int = 20,
    seed: int = 0,
) -> tuple[Matches, Matches]:
    """Best partners by the share of common exemplars, both ways, with the same mis-paired control.

    Args:
        first: strongest images of every latent of the first dictionary, by position.
        second: of the second.
        n_images: how many there are.
        strata: as in ``match``.
    """
    one, two = _indicator(first, n_images), _indicator(second, n_images)

    def best(order: Int[np.ndarray, " r"] | None) -> "_Best":
        return _best_of(_overlaps(one, two if order is None else two[:, order]))

    sizes = (np.diff(one.indptr), np.diff(two.indptr))
    return _two_ways(best, _strata(strata, n_images), 1, n_draws, seed,
                     (sizes[0], sizes[0] > 0), (sizes[1], sizes[1] > 0))  # fmt: skip


def jaccard(one: list[int], two: list[int]) -> float:
    """|A ∩ B| / |A ∪ B| of two lists of images; nan when both are empty."""
    union = set(one) | set(two)
    return len(set(one) & set(two)) / len(union) if union else float("nan")


class _Best(NamedTuple):
    """Largest similarity of every latent with any of the other dictionary, and which it is."""

    similarity_a: Float[np.ndarray, " a"]
    partner_a: Int[np.ndarray, " a"]
    similarity_c: Float[np.ndarray, " c"]
    partner_c: Int[np.ndarray, " c"]


def _strata(strata: Int[np.ndarray, " b"] | None, n_images: int) -> Int[np.ndarray, " b"]:
    return np.zeros(n_images, np.int64) if strata is None else strata


def _two_ways(
    best, strata: Int[np.ndarray, " b"], block_rows: int, n_draws: int, seed: int, of_a, of_c
) -> tuple[Matches, Matches]:
    """Observed best matches and their mis-paired null, from either side."""
    found: _Best = best(None)
    rng = np.random.default_rng(seed)
    null_a = np.empty((n_draws, len(found.similarity_a)))
    null_c = np.empty((n_draws, len(found.similarity_c)))
    for draw in range(n_draws):
        order = mispaired(strata, rng)
        drawn: _Best = best((order[:, None] * block_rows + np.arange(block_rows)).ravel())
        null_a[draw], null_c[draw] = drawn.similarity_a, drawn.similarity_c
    ways = (
        (found.similarity_a, found.partner_a, found.partner_c, null_a, *of_a),
        (found.similarity_c, found.partner_c, found.partner_a, null_c, *of_c),
    )
    return _matches(*ways[0]), _matches(*ways[1])


def _matches(
    similarity: Float[np.ndarray, " a"],
    partner: Int[np.ndarray, " a"],
    back: Int[np.ndarray, " c"],
    null: Float[np.ndarray, "n a"],
    fired: Int[np.ndarray, " a"],
    alive: Bool[np.ndarray, " a"],
) -> Matches:
    level, p = _pooled(similarity, null, fired, alive)
    return Matches(
        partner=np.where(alive, partner, -1),
        similarity=np.where(alive, similarity, np.nan),
        null=level,
        p=p,
        q=benjamini_hochberg(p),
        mutual=alive & (back[partner] == np.arange(len(partner))),
    )


class _Standard(NamedTuple):
    scaled: sparse.csr_matrix  # a / (σ √r)
    mean: Float[np.ndarray, " a"]  # of that, times √r
    spread: Float[np.ndarray, " a"]


def _standardized(codes: CodeEntries) -> _Standard:
    shape = (codes.n_latents, codes.n_rows)
    matrix = sparse.csr_matrix((codes.value.astype(float), (codes.latent, codes.row)), shape=shape)
    mean = np.asarray(matrix.mean(1)).ravel()
    squares = np.asarray(matrix.multiply(matrix).mean(1)).ravel()
    spread = np.sqrt(np.maximum(squares - mean**2, 0))
    spread[spread < 1e-12 * np.maximum(mean, 1)] = 0
    factor = np.where(spread > 0, 1 / np.maximum(spread, 1e-300), 0)
    scaled = sparse.diags(factor / np.sqrt(codes.n_rows)) @ matrix
    return _Standard(sparse.csr_matrix(scaled), mean * factor, spread)


def _count(codes: CodeEntries) -> Int[np.ndarray, " a"]:
    return np.bincount(codes.latent, minlength=codes.n_latents)


def _correlations(
    one: _Standard, two: _Standard, device: str | torch.device
) -> Iterator[Float[np.ndarray, "k c"]]:
    """Correlations of a block of the first's latents with all of the second's, −∞ for dead ones."""
    dense = two.scaled.nnz > SPARSE_BELOW * two.scaled.shape[0] * two.scaled.shape[1]
    other = _centred(two, slice(None), device).T if dense else two.scaled.T.tocsr()
    for first in range(0, one.scaled.shape[0], BLOCK):
        span = slice(first, first + BLOCK)
        if dense:
            products = (_centred(one, span, device) @ other).cpu().numpy()
        else:
            products = (one.scaled[span] @ other).toarray()
            products -= np.outer(one.mean[span], two.mean)
        products[:, two.spread == 0] = -np.inf
        products[one.spread[span] == 0] = -np.inf
        yield products


def _centred(
    codes: _Standard, span: slice, device: str | torch.device
) -> Float[torch.Tensor, "k r"]:
    """Rows of mean 0 and length 1, dense; centred before float32, which would lose the difference."""
    rows = codes.scaled[span].toarray()
    rows -= codes.mean[span, None] / np.sqrt(rows.shape[1])
    return torch.from_numpy(rows.astype(np.float32)).to(device)


def _indicator(sets: list[list[int]], n_images: int) -> sparse.csr_matrix:
    indptr = np.cumsum([0, *(len(row) for row in sets)])
    columns = np.array([image for row in sets for image in row], np.int64)
    return sparse.csr_matrix((np.ones(len(columns)), columns, indptr), shape=(len(sets), n_images))


def _overlaps(one: sparse.csr_matrix, two: sparse.csr_matrix) -> Iterator[Float[np.ndarray, "k c"]]:
    """Jaccard indices of a block of the first's sets with all of the second's; −∞ for empty ones."""
    sizes = np.diff(two.indptr)
    other = two.T.tocsr()
    for first in range(0, one.shape[0], BLOCK):
        block = one[first : first + BLOCK]
        own = np.diff(block.indptr)
        common = (block @ other).toarray()
        with np.errstate(invalid="ignore"):
            index = common / (own[:, None] + sizes[None] - common)
        index[:, sizes == 0] = -np.inf
        index[own == 0] = -np.inf
        yield index


def _best_of(blocks: Iterator[Float[np.ndarray, "k c"]]) -> _Best:
    """Row and column maxima over blocks of rows; the first of equals."""
    values, partners = [], []
    best_c: np.ndarray | None = None
    partner_c = np.zeros(0, np.int64)
    first = 0
    for block in blocks:
        partners.append(block.argmax(1))
        values.append(block.max(1))
        highest, at = block.max(0), block.argmax(0) + first
        if best_c is None:
            best_c, partner_c = highest, at
        else:
            better = highest > best_c
            best_c, partner_c = np.where(better, highest, best_c), np.where(better, at, partner_c)
        first += len(block)
    assert best_c is not None
    return _Best(np.concatenate(values), np.concatenate(partners), best_c, partner_c)


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
            draws = null[:, bin_].ravel()
            level[bin_] = np.quantile(draws, 0.95)
            p[bin_] = rank_p(observed[bin_], draws, ROUNDING)
    return level, p
