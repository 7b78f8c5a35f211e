"""AUROC, average precision, F1 and correlation of every latent × concept pair, exact, at once.

Codes are sparse and a row (an image or a patch) carries few concepts, so every score below comes
from two sorts of the stored codes, in O(n log n) for n codes, whatever the number of concepts. All
rows on which a latent is inactive form one tie group, and equal codes another.

Suffixes: s latents, c concepts, n stored codes, m entries of pairs, r rows.
"""

# scipy types the shape of a sparse array as optional:
# pyright: reportOptionalSubscript=false

from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from saev.concepts.ranked_codes import CodeEntries, RankedEntries, rank_entries, tie_groups


class PairScores(NamedTuple):
    """Scores of every latent × concept pair; nan for a concept without positives or negatives."""

    auroc: Float[np.ndarray, "s c"]
    """P(code on a positive > on a negative) + ½ P(equal). Null value 0.5."""
    ap: Float[np.ndarray, "s c"]
    """Σ over distinct thresholds of (recall gained) · precision (non-interpolated average
    precision). Null value: the prevalence, for a code without ties; also for a dead latent."""
    r: Float[np.ndarray, "s c"]
    """Pearson correlation of code and label. Null value 0; 0 for a dead latent."""
    f1: Float[np.ndarray, "s c"]
    """Largest F1 = 2TP/(2TP + FP + FN) over thresholds above 0. Chosen on these very rows, so
    optimistic: report :func:`at_thresholds` on others."""
    threshold: Float[np.ndarray, "s c"]
    """The threshold (code ≥ threshold) with that F1; inf where no code is positive on a positive."""


def score_pairs(codes: CodeEntries, labels: sparse.csr_matrix) -> PairScores:
    """All scores of all pairs; arguments as of :class:`Pairs`."""
    pairs = Pairs(codes, labels)
    f1, threshold = pairs.best_f1()
    return PairScores(pairs.auroc(), pairs.average_precision(), pairs.pearson(), f1, threshold)


class Pairs:
    """Codes joined with labels: one entry per stored code and concept of its row, by pair and
    within it by strength.

    Args:
        codes: of ``r`` rows; ranked ones where the same codes meet several labellings.
        labels: rows × concepts with entries in (0, 1]; a share below 1 counts a row as that much
            positive and the rest negative (a patch half covered by sky).
    """

    def __init__(self, codes: CodeEntries | RankedEntries, labels: sparse.csr_matrix) -> None:
        self.ranked = codes if isinstance(codes, RankedEntries) else rank_entries(codes)
        self.labels = labels
        self.positives: Float[np.ndarray, " c"] = np.asarray(labels.sum(0)).ravel()
        ordered = self.ranked.codes
        self.n_rows = ordered.n_rows
        self.shape = (ordered.n_latents, labels.shape[1])
        self.source, self.key, self.weight = self._join(ordered)
        self.value = ordered.value[self.source]

    def _join(self, ordered: CodeEntries) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which code, which pair (latent · concepts + concept) and which share, sorted by pair."""
        n_labels = np.diff(self.labels.indptr)[ordered.row]
        source = np.repeat(np.arange(len(ordered.row)), n_labels)
        within = np.arange(len(source)) - np.repeat(n_labels.cumsum() - n_labels, n_labels)
        entry = self.labels.indptr[ordered.row][source] + within
        concept = self.labels.indices[entry]
        key = ordered.latent[source].astype(np.int64) * self.shape[1] + concept
        # by concept first: 16 bits sort in linear time, and leave ascending runs to be merged
        order = concept.astype(np.uint16 if self.shape[1] < 2**16 else np.int64).argsort(
            kind="stable"
        )
        order = order[key[order].argsort(kind="stable")]
        return source[order], key[order], self.labels.data[entry][order].astype(float)

    def total(self, values: Float[np.ndarray, " m"]) -> Float[np.ndarray, "s c"]:
        """Sums over the entries of each pair."""
        size = self.shape[0] * self.shape[1]
        return np.bincount(self.key, values, size).astype(float).reshape(self.shape)

    @cached_property
    def hits(self) -> Float[np.ndarray, "s c"]:
        """Positives on which the latent fires."""
        return self.total(self.weight)

    @cached_property
    def fired(self) -> Int[np.ndarray, " s"]:
        """Rows on which each latent fires."""
        return np.bincount(self.ranked.codes.latent, minlength=self.shape[0])

    @cached_property
    def cumulative(self) -> Float[np.ndarray, " m"]:
        """Positives of the pair whose code is at least as strong."""
        _, tie_end = tie_groups(self.key, self.value)
        cumulative = self.weight.cumsum()
        starts = self._starts
        before = np.where(starts > 0, cumulative[starts - 1], 0.0)
        return cumulative[tie_end] - before.repeat(np.diff(starts, append=len(cumulative)))

    @cached_property
    def _starts(self) -> Int[np.ndarray, " p"]:
        """Where the entries of each pair that has any begin."""
        return np.diff(self.key, prepend=-1).nonzero()[0]

    def auroc(self) -> Float[np.ndarray, "s c"]:
        """As Mann–Whitney U with midranks; with shares w, U = Σ w_i·(rank_i − ½) − W²/2, because the
        positives' comparisons among themselves cancel by symmetry."""
        inactive = self.positives[None] - self.hits
        rank = self.total(self.weight * (self.ranked.midrank[self.source] - 0.5))
        rank = rank + inactive * (self.n_rows - self.fired)[:, None] / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            return (rank - self.positives**2 / 2) / (
                self.positives * (self.n_rows - self.positives)
            )

    def average_precision(self) -> Float[np.ndarray, "s c"]:
        """Below every positive code the one remaining threshold calls everything positive."""
        inactive = self.positives[None] - self.hits
        precision = self.cumulative / self.ranked.place[self.source]
        with np.errstate(divide="ignore", invalid="ignore"):
            gained = self.total(self.weight * precision) + inactive * self.positives / self.n_rows
            return gained / self.positives

    def best_f1(self) -> tuple[Float[np.ndarray, "s c"], Float[np.ndarray, "s c"]]:
        """The largest F1 over thresholds above 0, and the highest threshold that gives it."""
        best = np.zeros(self.shape[0] * self.shape[1])
        threshold = np.full(len(best), np.inf)
        predicted = self.ranked.place[self.source]
        f1 = 2 * self.cumulative / (predicted + self.positives[self.key % self.shape[1]])
        if len(f1):
            best[self.key[self._starts]] = np.maximum.reduceat(f1, self._starts)
        at_best = (f1 == best[self.key]).nonzero()[0][::-1]  # written last: the highest threshold
        threshold[self.key[at_best]] = self.value[at_best]
        return best.reshape(self.shape), threshold.reshape(self.shape)

    def pearson(self) -> Float[np.ndarray, "s c"]:
        """Correlation of code and label; 0 where one of them does not vary."""
        codes, n = self.ranked.codes, max(self.n_rows, 1)
        value = codes.value.astype(float)
        total = np.bincount(codes.latent, value, codes.n_latents)
        squares = np.bincount(codes.latent, value**2, codes.n_latents)
        label_squares = np.asarray(self.labels.multiply(self.labels).sum(0)).ravel()
        covariance = self.total(self.weight * self.value) - total[:, None] * self.positives / n
        spread = (squares - total**2 / n)[:, None] * (label_squares - self.positives**2 / n)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(spread > 0, covariance / np.sqrt(np.maximum(spread, 0)), 0.0)


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
    codes: CodeEntries, labels: sparse.csr_matrix, threshold: Float[np.ndarray, "s c"]
) -> ThresholdScores:
    """Scores of calling a row positive where code ≥ threshold; thresholds must be above 0."""
    pairs = Pairs(codes, labels)
    above = pairs.value >= threshold.ravel()[pairs.key]
    hits = pairs.total(pairs.weight * above)
    predicted = _count_above(pairs.ranked.codes, threshold)
    positives = pairs.positives
    with np.errstate(divide="ignore", invalid="ignore"):
        return ThresholdScores(
            f1=np.nan_to_num(2 * hits / (predicted + positives)),
            precision=hits / predicted,
            recall=hits / positives,
            iou=np.nan_to_num(hits / (predicted + positives - hits)),
        )


def purity_at(
    codes: CodeEntries, labels: sparse.csr_matrix, k: int = 16
) -> Float[np.ndarray, "s c"]:
    """Share of a latent's k strongest rows that are positive (its firing rows, where fewer).

    Null value: the prevalence. Source: Purity@k of arXiv 2511.17735. Ties keep the order of rows.
    """
    ordered = rank_entries(codes).codes
    starts = np.searchsorted(ordered.latent, np.arange(codes.n_latents))
    strongest = np.arange(len(ordered.latent)) - starts[ordered.latent] < k
    top = ordered._replace(
        latent=ordered.latent[strongest], row=ordered.row[strongest], value=ordered.value[strongest]
    )
    pairs = Pairs(top, labels)
    return pairs.hits / np.maximum(pairs.fired, 1)[:, None]


def coverage_at(ap_c: Float[np.ndarray, " c"], tau: float = 0.3) -> float:
    """Share of concepts whose best latent has an average precision of at least ``tau``.

    Null value: 0 for rare concepts. Source: Coverage@τ of arXiv 2511.17735.
    """
    known = ap_c[~np.isnan(ap_c)]
    return float((known >= tau).mean()) if len(known) else float("nan")


def _count_above(ordered: CodeEntries, threshold: Float[np.ndarray, "s c"]) -> np.ndarray:
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
