"""Max-statistic null of the best of many latents, under permuted labels.

The best of 24,576 random latents reaches an AUROC of 0.69 on 50 positives among 20,000 images, so
a best latent is compared with the best latent under permuted labels (Westfall & Young 1993), which
controls the chance of a single false discovery over all latents.
"""

# scipy types the shape of a sparse array as optional:
# pyright: reportOptionalSubscript=false

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from saev.concepts.ranked_codes import CodeEntries, rank_entries
from saev.stats.tests import rank_p

GRID_RATIO = 1.1
"""Concepts whose numbers of positives differ by less than this share one null."""
GRID_FROM = 20
"""Below this many positives every number has its own null."""
ROUNDING = 1e-6
"""Scores in single precision that differ by less are equal."""
COLUMNS = 512
"""Permutations multiplied with the ranks at once."""
DENSE_LABELS = 2**26
"""Labels above which maps are not written out as a table: 256 MB."""
CONCEPTS_PER_LABEL = 16
"""A table of labels costs a multiplication per concept, a list of them one addition in memory per
label, which takes as long as about so many multiplications."""


def auroc_max_null(
    codes: CodeEntries, n_positives: Int[np.ndarray, " c"], n_permutations: int, seed: int = 0
) -> Float[np.ndarray, "c p"]:
    """Largest AUROC over all latents, for each concept's number of positives and random labelling.

    The null depends on a concept through its number of positives alone. On up to half of the rows
    concepts of nearly the same number share it, at the smaller one (whose null is the wider:
    conservative). On more than half every number has its own, and it is not that of the complement:
    the rows on which a latent is silent are one large tie, and fewer positives or fewer negatives may
    each make the null narrower. nan where there are no positives or no negatives.
    """
    ranks, inactive_rank = _ranks(codes)
    grid = _grid(n_positives, codes.n_rows)
    rng = np.random.default_rng(seed)
    null = np.full((len(n_positives), n_permutations), np.nan)
    for size in np.unique(grid[grid > 0]):
        largest = np.empty(n_permutations)
        for first in range(0, n_permutations, COLUMNS):
            width = min(COLUMNS, n_permutations - first)
            labels = np.zeros((codes.n_rows, width), np.float32)
            for column in range(width):
                labels[rng.choice(codes.n_rows, size, replace=False), column] = 1
            largest[first : first + width] = _largest(ranks, inactive_rank, labels)
        null[grid == size] = largest
    return null


def auroc_max_null_of_maps(
    codes: CodeEntries,
    labels: sparse.csr_matrix,
    images: Int[np.ndarray, " r"],
    places: Int[np.ndarray, " r"],
    n_permutations: int,
    seed: int = 0,
) -> Float[np.ndarray, "c p"]:
    """Largest AUROC over all latents when whole label maps change images.

    Neighbouring patches are similar, so patches must not be permuted one by one. A map that lands on
    another image keeps its layout: a latent that only knows where the sky usually is scores in this
    null too. Rows without a counterpart in the other image are unlabelled there.

    Args:
        codes: of rows that are patches.
        labels: rows × concepts.
        images: number of each row's image.
        places: number of each row's patch in its image.
    """
    ranks, inactive_rank = _ranks(codes)
    n_images, n_places = int(images.max()) + 1, int(places.max()) + 1
    row_at = np.full((n_images, n_places), -1, np.int64)
    row_at[images, places] = np.arange(len(images))
    rng = np.random.default_rng(seed)
    null = np.full((labels.shape[1], n_permutations), np.nan)
    for draw in range(n_permutations):
        donor = row_at[rng.permutation(n_images)[images], places]
        moved = labels[np.maximum(donor, 0)]
        if (donor < 0).any():
            moved = sparse.csr_matrix(sparse.diags((donor >= 0).astype(float)) @ moved)
            moved.eliminate_zeros()
        positives = np.asarray(moved.sum(0), np.float64).ravel()
        null[:, draw] = _best_auroc(
            _rank_sums(ranks, moved), inactive_rank, positives, codes.n_rows
        )
    return null


def permutation_p(
    observed: Float[np.ndarray, "*k c"], null: Float[np.ndarray, "c p"]
) -> Float[np.ndarray, "*k c"]:
    """:func:`saev.stats.tests.rank_p` concept by concept."""
    p = np.empty(observed.shape)
    for concept, draws in enumerate(null):
        p[..., concept] = rank_p(observed[..., concept], draws, ROUNDING)
    return p


def _ranks(codes: CodeEntries) -> tuple[sparse.csr_matrix, Float[np.ndarray, " s"]]:
    """Midranks above the midrank of inactive rows, latents × rows, and that midrank per latent."""
    ordered, _, midrank = rank_entries(codes)
    bounds = np.searchsorted(ordered.latent, np.arange(codes.n_latents + 1))
    inactive_rank = (codes.n_rows - np.diff(bounds) + 1) / 2
    above = midrank - inactive_rank[ordered.latent]
    shape = (codes.n_latents, codes.n_rows)
    values = above.astype(np.float32)
    return sparse.csr_matrix((values, ordered.row, bounds), shape=shape), inactive_rank


def _largest(
    ranks: sparse.csr_matrix,
    inactive_rank: Float[np.ndarray, " s"],
    labels: Float[np.ndarray, "r k"],
) -> Float[np.ndarray, " k"]:
    """The best latent's AUROC for every column of labels."""
    positives = labels.sum(0, dtype=np.float64)
    return _best_auroc(ranks @ labels, inactive_rank, positives, ranks.shape[1])


def _best_auroc(
    above: Float[np.ndarray, "s k"],
    inactive_rank: Float[np.ndarray, " s"],
    positives: Float[np.ndarray, " k"],
    n_rows: int,
) -> Float[np.ndarray, " k"]:
    with np.errstate(divide="ignore", invalid="ignore"):
        u = above + inactive_rank[:, None] * positives - positives * (positives + 1) / 2
        return (u / (positives * (n_rows - positives))).max(0)


def _rank_sums(ranks: sparse.csr_matrix, labels: sparse.csr_matrix) -> Float[np.ndarray, "s c"]:
    """ranks @ labels, for a few labels per row without ever holding a rows × concepts table."""
    n_labels = np.diff(labels.indptr)
    most, n_rows, n_concepts = int(n_labels.max(initial=0)), labels.shape[0], labels.shape[1]
    if n_concepts <= CONCEPTS_PER_LABEL * most and n_rows * n_concepts <= DENSE_LABELS:
        return ranks @ labels.toarray().astype(np.float32)
    n_latents = ranks.shape[0]
    latent = np.repeat(np.arange(n_latents), np.diff(ranks.indptr))
    sums = np.zeros(n_latents * n_concepts)
    for place in range(most):
        has = (n_labels > place)[ranks.indices]
        label = labels.indptr[ranks.indices[has]] + place
        key = latent[has] * n_concepts + labels.indices[label]
        sums += np.bincount(key, ranks.data[has] * labels.data[label], len(sums))
    return sums.reshape(n_latents, n_concepts)


def _grid(n_positives: Int[np.ndarray, " c"], n_rows: int) -> Int[np.ndarray, " c"]:
    """Numbers of positives to draw nulls at; 0 where there is nothing to predict."""
    usable = (n_positives > 0) & (n_positives < n_rows)
    step = np.floor(np.log(np.maximum(n_positives, 1)) / np.log(GRID_RATIO) + 1e-9)
    coarse = np.maximum((GRID_RATIO**step).astype(np.int64), GRID_FROM)
    shared = (n_positives >= GRID_FROM) & (2 * n_positives <= n_rows)
    return np.where(usable, np.where(shared, coarse, n_positives), 0)
