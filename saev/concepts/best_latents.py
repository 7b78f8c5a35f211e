"""Best latent of each concept: chosen on some images, tested on others.

Suffixes: s latents, c concepts, r rows (images or patches).
"""

# scipy types the shape of a sparse array as optional:
# pyright: reportOptionalSubscript=false

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse

from saev.codes.store import CodeStore
from saev.concepts.max_null import (
    auroc_max_null,
    auroc_max_null_of_maps,
    permutation_p,
)
from saev.concepts.pair_scores import (
    PairScores,
    ThresholdScores,
    at_thresholds,
    purity_at,
    score_pairs,
)
from saev.concepts.ranked_codes import CodeEntries
from saev.stats.correction import benjamini_hochberg, family_q

SPLITS = ("discovery", "calibration", "test")
POOLS = ("max", "sum")
MIN_CALIBRATION = 20
"""Positive rows of the calibration split below which it does not set a concept's threshold alone."""


@dataclass(frozen=True)
class Concepts:
    """What is known of some of the images: labels, attributes or masks of one source.

    Rows are the annotated images, or, for patches, their patches image by image.
    """

    source: str
    kind: Literal["class", "attribute", "mask"]
    names: list[str]
    images: Int[np.ndarray, " i"]
    """Positions in the store."""
    splits: list[str]
    """One of ``SPLITS`` per image."""
    labels: sparse.csr_matrix
    """Rows × concepts, 1 or the share of the patch."""
    usable: Bool[np.ndarray, " r"] = field(default_factory=lambda: np.zeros(0, bool))
    """Rows to score on; empty: all."""

    @property
    def on_patches(self) -> bool:
        return self.kind == "mask"

    def rows(self, split: str, n_tokens: int) -> Int[np.ndarray, " r"]:
        """Usable rows of one split."""
        per_image = n_tokens if self.on_patches else 1
        mine = np.repeat(np.array([s == split for s in self.splits], bool), per_image)
        if len(self.usable):
            mine &= self.usable
        return mine.nonzero()[0]


class ConceptScores(NamedTuple):
    """Scores of every latent for every concept, on images that did not choose them."""

    concepts: Concepts
    by_split: dict[str, PairScores]
    """Keys as in ``SPLITS``; each split's own best F1."""
    test: ThresholdScores
    """On the test split, with thresholds from the calibration split."""
    threshold: Float[np.ndarray, "s c"]
    pool: Int[np.ndarray, "s c"]
    """Index into ``POOLS`` of how codes of an image were pooled, chosen on the discovery split."""
    p: Float[np.ndarray, "s c"]
    """Chance that the best of all latents reaches this test AUROC with permuted labels."""
    q: Float[np.ndarray, "s c"]
    """p adjusted over the concepts of this source."""
    purity: Float[np.ndarray, "s c"]
    n_positive: dict[str, Float[np.ndarray, " c"]]
    n_rows: dict[str, int]
    shuffled_discoveries: float
    """Concepts with q ≤ fdr when the labels are shuffled: mean share over repetitions."""

    def best(self, score: str = "auroc", split: str = "discovery") -> Int[np.ndarray, " c"]:
        """The latent with the highest score for each concept on one split, the first of equals."""
        values = getattr(self.by_split[split], score)
        return np.nan_to_num(values, nan=-1.0).argmax(0)


def score_concepts(
    store: CodeStore,
    concepts: Concepts,
    *,
    n_permutations: int = 1000,
    fdr: float = 0.05,
    n_shuffles: int = 20,
    seed: int = 0,
) -> ConceptScores:
    """All scores of one source's concepts, a range of latents at a time.

    Args:
        n_permutations: of the labels, for p; whole maps are permuted for masks.
        fdr: share of false discoveries that ``shuffled_discoveries`` counts at.
        n_shuffles: repetitions of that count.
    """
    rows = {split: concepts.rows(split, store.n_tokens) for split in SPLITS}
    labels = {split: concepts.labels[rows[split]] for split in SPLITS}
    chunks = [
        _score_chunk(store, concepts, rows, labels, span, n_permutations, n_shuffles, seed)
        for span in store.chunks()
    ]
    # null draws of all chunks are made with the same labels: the best latent of all is the largest
    null, shuffled_draws = (
        np.maximum.reduce([chunk.pop(name) for chunk in chunks]) for name in ("null", "shuffled")
    )
    joined = {name: _join([chunk[name] for chunk in chunks]) for name in chunks[0]}
    p = permutation_p(joined["test_pairs"].auroc, null)
    chosen = np.nan_to_num(joined["discovery"].auroc, nan=-1.0).argmax(0)
    best_p = p[chosen, np.arange(p.shape[1])]
    shuffled = [
        np.nan_to_num(benjamini_hochberg(permutation_p(draw[None], null)[0]), nan=1.0) <= fdr
        for draw in shuffled_draws.T
    ]
    return ConceptScores(
        concepts=concepts,
        by_split={
            "discovery": joined["discovery"],
            "calibration": joined["calibration"],
            "test": joined["test_pairs"],
        },
        test=joined["test"],
        threshold=joined["threshold"],
        pool=joined["pool"],
        p=p,
        q=family_q(p, best_p),
        purity=joined["purity"],
        n_positive={s: np.asarray(labels[s].sum(0)).ravel() for s in SPLITS},
        n_rows={s: len(rows[s]) for s in SPLITS},
        shuffled_discoveries=float(np.mean(shuffled)) if shuffled else float("nan"),
    )


def _score_chunk(
    store: CodeStore,
    concepts: Concepts,
    rows: dict[str, Int[np.ndarray, " r"]],
    labels: dict[str, sparse.csr_matrix],
    span: tuple[int, int],
    n_permutations: int,
    n_shuffles: int,
    seed: int,
) -> dict[str, Any]:
    codes = concept_codes(store, concepts, *span)
    on = {split: codes.on(rows[split]) for split in SPLITS}
    scores = {split: score_pairs(on[split], labels[split]) for split in SPLITS}
    n = span[1] - span[0]
    pool = np.zeros((n, labels["test"].shape[1]), np.int64)
    if codes.n_latents > n:  # max and sum, one below the other: the better on discovery
        both = np.nan_to_num(scores["discovery"].auroc).reshape(2, n, -1)
        pool = (both[1] > both[0]).astype(np.int64)
    threshold = scores["calibration"].threshold
    few = np.asarray(labels["calibration"].sum(0)).ravel() < MIN_CALIBRATION
    if few.any():  # too rare there: the images that choose latents set the threshold too
        seen = np.sort(np.concatenate([rows["discovery"], rows["calibration"]]))
        both = score_pairs(codes.on(seen), concepts.labels[seen][:, few])
        threshold = threshold.copy()
        threshold[:, few] = both.threshold
    test = at_thresholds(on["test"], labels["test"], threshold)
    purity = purity_at(on["test"], labels["test"])
    null = _null(on["test"], concepts, rows["test"], labels["test"], store.n_tokens,
                 n_permutations, seed)  # fmt: skip
    shuffled = _null(on["test"], concepts, rows["test"], labels["test"], store.n_tokens,
                     n_shuffles, seed + 1)  # fmt: skip

    def pooled(values: Float[np.ndarray, "m c"]) -> Float[np.ndarray, "s c"]:
        stacked = values.reshape(-1, n, values.shape[1])
        chosen = np.take_along_axis(stacked, pool[None], 0)[0] if len(stacked) > 1 else stacked[0]
        # 24,576 latents × 1,000 classes × 25 scores: 2.5 GB
        return chosen.astype(np.float32)

    return {
        "discovery": PairScores(*map(pooled, scores["discovery"])),
        "calibration": PairScores(*map(pooled, scores["calibration"])),
        "test_pairs": PairScores(*map(pooled, scores["test"])),
        "test": ThresholdScores(*map(pooled, test)),
        "threshold": pooled(threshold),
        "purity": pooled(purity),
        "pool": pool,
        "null": null,
        "shuffled": shuffled,
    }


def concept_codes(store: CodeStore, concepts: Concepts, first: int, last: int) -> CodeEntries:
    """Codes on the rows of a source's concepts; for images the largest codes, then the sums."""
    place = np.full(len(store.image_ids), -1, np.int64)
    place[concepts.images] = np.arange(len(concepts.images))
    if concepts.on_patches:
        latent, row, value = store.token_codes(first, last)
        image = place[row // store.n_tokens]
        kept = image >= 0
        moved = image[kept] * store.n_tokens + row[kept] % store.n_tokens
        n_rows = len(concepts.images) * store.n_tokens
        return CodeEntries(latent[kept] - first, moved, value[kept], last - first, n_rows)
    images = store.image_codes(first, last)
    kept = place[images.image] >= 0
    latent, row = images.latent[kept] - first, place[images.image[kept]]
    n = last - first
    return CodeEntries(
        np.concatenate([latent, latent + n]),
        np.concatenate([row, row]),
        np.concatenate([images.max[kept], images.sum[kept].astype(np.float32)]),
        2 * n,
        len(concepts.images),
    )


def _null(
    codes: CodeEntries,
    concepts: Concepts,
    rows: Int[np.ndarray, " r"],
    labels: sparse.csr_matrix,
    n_tokens: int,
    n_draws: int,
    seed: int,
) -> Float[np.ndarray, "c p"]:
    if not len(rows):
        return np.full((labels.shape[1], n_draws), np.nan)
    if not concepts.on_patches:
        n_positive = np.rint(np.asarray(labels.sum(0)).ravel()).astype(np.int64)
        return auroc_max_null(codes, n_positive, n_draws, seed)
    _, image = np.unique(rows // n_tokens, return_inverse=True)
    return auroc_max_null_of_maps(codes, labels, image, rows % n_tokens, n_draws, seed)


def _join(values: list[Any]) -> Any:
    """Ranges of latents below each other, field by field for tuples of scores."""
    if isinstance(values[0], tuple):
        return type(values[0])(*(np.concatenate(column) for column in zip(*values, strict=True)))
    return np.concatenate(values)
