"""How well single latents tell a concept: exact scores for every latent × concept pair at once.

Codes are sparse and a row (an image or a patch) carries few concepts, so every score below comes
from two sorts of the stored codes, in O(n log n) for n codes, whatever the number of concepts. All
rows on which a latent is silent form one tie group.

Suffixes: s latents, c concepts, n stored codes, r rows.
"""

# scipy types the shape of a sparse array as optional:
# pyright: reportOptionalSubscript=false

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse


class Codes(NamedTuple):
    """Positive codes, sorted by latent; every (latent, row) at most once."""

    latent: Int[np.ndarray, " n"]
    row: Int[np.ndarray, " n"]
    value: Float[np.ndarray, " n"]
    n_latents: int
    n_rows: int

    def on(self, rows: Int[np.ndarray, " r"]) -> "Codes":
        """Restricted to some rows, which are renumbered in the order given."""
        place = np.full(self.n_rows, -1, np.int64)
        place[rows] = np.arange(len(rows))
        kept = place[self.row] >= 0
        return Codes(
            self.latent[kept], place[self.row[kept]], self.value[kept], self.n_latents, len(rows)
        )


class PairScores(NamedTuple):
    """Scores of every latent × concept pair; nan for a concept without positives or negatives."""

    auroc: Float[np.ndarray, "s c"]
    """P(code on a positive > on a negative) + ½ P(equal). Null value 0.5."""
    ap: Float[np.ndarray, "s c"]
    """Σ over distinct thresholds of (recall gained) · precision (non-interpolated average
    precision). Null value: the prevalence, for a code without ties; also for a silent latent."""
    r: Float[np.ndarray, "s c"]
    """Pearson correlation of code and label. Null value 0; 0 for a silent latent."""
    f1: Float[np.ndarray, "s c"]
    """Largest F1 = 2TP/(2TP + FP + FN) over thresholds above 0. Chosen on these very rows, so
    optimistic: report :func:`at_thresholds` on others."""
    threshold: Float[np.ndarray, "s c"]
    """The threshold (code ≥ threshold) with that F1; inf where no code is positive on a positive."""


def score_pairs(codes: Codes, labels: sparse.csr_matrix) -> PairScores:
    """All scores of all pairs.

    Args:
        codes: of ``r`` rows.
        labels: rows × concepts with entries in (0, 1]; a share below 1 counts a row as that much
            positive and the rest negative (a patch half covered by sky).

    Sources: AUROC as Mann–Whitney U with midranks; with shares w, U = Σ w_i·(rank_i − ½) − W²/2,
    because the positives' comparisons among themselves cancel by symmetry.
    """
    n_concepts, n_rows = labels.shape[1], codes.n_rows
    ordered = _by_strength(codes)
    pair = _expand(ordered, labels)
    size = codes.n_latents * n_concepts
    shape = (codes.n_latents, n_concepts)
    positives = np.asarray(labels.sum(0)).ravel()
    fired = np.bincount(codes.latent, minlength=codes.n_latents)

    def total(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, "s c"]:
        return np.bincount(pair.key, values, size).astype(float).reshape(shape)

    hits = total(pair.weight)
    silent = positives[None] - hits
    rank = total(pair.weight * (pair.midrank - 0.5)) + silent * (n_rows - fired)[:, None] / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        auroc = (rank - positives**2 / 2) / (positives * (n_rows - positives))
        precision = pair.cumulative / pair.place
        # below every positive code the one remaining threshold calls everything positive
        ap = (total(pair.weight * precision) + silent * positives / n_rows) / positives
    f1, threshold = _best_f1(pair, positives, size)
    return PairScores(
        auroc=auroc,
        ap=ap,
        r=_pearson(codes, total(pair.weight * pair.value), positives, labels),
        f1=f1.reshape(shape),
        threshold=threshold.reshape(shape),
    )


class ThresholdScores(NamedTuple):
    """What fixed thresholds give on other rows than they were chosen on."""

    f1: Float[np.ndarray, "s c"]
    precision: Float[np.ndarray, "s c"]
    """nan where nothing is above the threshold."""
    recall: Float[np.ndarray, "s c"]
    iou: Float[np.ndarray, "s c"]
    """Intersection over union, TP/(TP + FP + FN) (Bau et al. 2017, NetDissect, when rows are
    patches or pixels and the threshold is a high quantile of the latent)."""


def at_thresholds(
    codes: Codes, labels: sparse.csr_matrix, threshold: Float[np.ndarray, "s c"]
) -> ThresholdScores:
    """Scores of calling a row positive where code ≥ threshold; thresholds must be above 0."""
    n_concepts = labels.shape[1]
    ordered = _by_strength(codes)
    pair = _expand(ordered, labels)
    above = pair.value >= threshold.ravel()[pair.key]
    size = codes.n_latents * n_concepts
    hits = np.bincount(pair.key[above], pair.weight[above], size).reshape(threshold.shape)
    predicted = _count_above(ordered, threshold)
    positives = np.asarray(labels.sum(0)).ravel()
    with np.errstate(divide="ignore", invalid="ignore"):
        return ThresholdScores(
            f1=np.nan_to_num(2 * hits / (predicted + positives)),
            precision=hits / predicted,
            recall=hits / positives,
            iou=np.nan_to_num(hits / (predicted + positives - hits)),
        )


def purity_at(codes: Codes, labels: sparse.csr_matrix, k: int = 16) -> Float[np.ndarray, "s c"]:
    """Share of a latent's k strongest rows that are positive (its firing rows, where fewer).

    Null value: the prevalence. Source: Purity@k of arXiv 2511.17735. Ties keep the order of rows.
    """
    ordered = _by_strength(codes)
    starts = np.searchsorted(ordered.latent, np.arange(codes.n_latents))
    strongest = np.arange(len(ordered.latent)) - starts[ordered.latent] < k
    top = Codes(
        ordered.latent[strongest], ordered.row[strongest], ordered.value[strongest],
        codes.n_latents, codes.n_rows,
    )  # fmt: skip
    pair = _expand(top, labels)
    size = codes.n_latents * labels.shape[1]
    hits = np.bincount(pair.key, pair.weight, size).reshape(codes.n_latents, -1)
    hits = hits.astype(float)
    return hits / np.maximum(np.bincount(top.latent, minlength=codes.n_latents), 1)[:, None]


def coverage_at(ap_c: Float[np.ndarray, " c"], tau: float = 0.3) -> float:
    """Share of concepts whose best latent has an average precision of at least ``tau``.

    Null value: 0 for rare concepts. Source: Coverage@τ of arXiv 2511.17735.
    """
    known = ap_c[~np.isnan(ap_c)]
    return float((known >= tau).mean()) if len(known) else float("nan")


class _Pairs(NamedTuple):
    """One entry per stored code and concept of its row, by pair and within it by strength."""

    key: Int[np.ndarray, " m"]
    weight: Float[np.ndarray, " m"]
    value: Float[np.ndarray, " m"]
    midrank: Float[np.ndarray, " m"]
    place: Int[np.ndarray, " m"]
    cumulative: Float[np.ndarray, " m"]


def _by_strength(codes: Codes) -> Codes:
    """Sorted by latent, within a latent from the strongest code down."""
    # the bits of positive float32 numbers order as the numbers do: one integer key, one sort
    strength = codes.value.astype(np.float32).view(np.int32).astype(np.int64)
    order = (codes.latent.astype(np.int64) * 2**32 - strength).argsort(kind="stable")
    return codes._replace(
        latent=codes.latent[order], row=codes.row[order], value=codes.value[order]
    )


def _expand(ordered: Codes, labels: sparse.csr_matrix) -> _Pairs:
    first, last = _tie_groups(ordered.latent, ordered.value)
    starts = np.searchsorted(ordered.latent, np.arange(ordered.n_latents))[ordered.latent]
    place = last - starts + 1  # codes at least as strong
    midrank = ordered.n_rows - ((first + last) / 2 - starts)
    n_labels = np.diff(labels.indptr)[ordered.row]
    source = np.repeat(np.arange(len(ordered.row)), n_labels)
    within = np.arange(len(source)) - np.repeat(n_labels.cumsum() - n_labels, n_labels)
    entry = labels.indptr[ordered.row][source] + within
    key = ordered.latent[source].astype(np.int64) * labels.shape[1] + labels.indices[entry]
    order = key.argsort(kind="stable")
    key, source, weight = key[order], source[order], labels.data[entry][order].astype(float)
    value = ordered.value[source]
    _, tie_end = _tie_groups(key, value)
    cumulative = weight.cumsum()
    pair_start = np.searchsorted(key, key)
    before = np.where(pair_start > 0, cumulative[pair_start - 1], 0.0)
    return _Pairs(key, weight, value, midrank[source], place[source], cumulative[tie_end] - before)


def _tie_groups(
    group: Int[np.ndarray, " n"], value: Float[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """First and last position of each entry's run of equal (group, value)."""
    if not len(group):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    new = np.ones(len(group), bool)
    new[1:] = (group[1:] != group[:-1]) | (value[1:] != value[:-1])
    starts = new.nonzero()[0]
    run = new.cumsum() - 1
    ends = np.append(starts[1:], len(group)) - 1
    return starts[run], ends[run]


def _best_f1(
    pair: _Pairs, positives: Float[np.ndarray, " c"], size: int
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    best, threshold = np.zeros(size), np.full(size, np.inf)
    f1 = 2 * pair.cumulative / (pair.place + positives[pair.key % len(positives)])
    np.maximum.at(best, pair.key, f1)
    at_best = (f1 == best[pair.key]).nonzero()[0][::-1]  # written last: the highest threshold
    threshold[pair.key[at_best]] = pair.value[at_best]
    return best, threshold


def _pearson(
    codes: Codes,
    products: Float[np.ndarray, "s c"],
    positives: Float[np.ndarray, " c"],
    labels: sparse.csr_matrix,
) -> Float[np.ndarray, "s c"]:
    n, value = codes.n_rows, codes.value.astype(float)
    total = np.bincount(codes.latent, value, codes.n_latents)
    squares = np.bincount(codes.latent, value**2, codes.n_latents)
    label_squares = np.asarray(labels.multiply(labels).sum(0)).ravel()
    covariance = products - total[:, None] * positives / n
    spread = (squares - total**2 / n)[:, None] * (label_squares - positives**2 / n)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(spread > 0, covariance / np.sqrt(np.maximum(spread, 0)), 0.0)


def _count_above(ordered: Codes, threshold: Float[np.ndarray, "s c"]) -> Int[np.ndarray, "s c"]:
    """Codes of each latent that reach each of its thresholds: a binary search in every segment."""
    bounds = np.searchsorted(ordered.latent, np.arange(ordered.n_latents + 1))
    start = np.broadcast_to(bounds[:-1, None], threshold.shape)
    low, high = start.copy(), np.broadcast_to(bounds[1:, None], threshold.shape).copy()
    while (low < high).any():
        middle = (low + high) // 2
        open_ = low < high
        reaches = np.zeros_like(open_)
        reaches[open_] = ordered.value[middle[open_]] >= threshold[open_]
        low = np.where(open_ & reaches, middle + 1, low)
        high = np.where(open_ & ~reaches, middle, high)
    return low - start
