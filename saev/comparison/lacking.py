"""Concepts that each dictionary has, and those that one may be said to lack.

Suffixes: c concepts, r rows (images or patches), n bootstrap draws, p permutations.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from saev.codes.images import ImageList
from saev.codes.store import CodeStore
from saev.comparison.members import CompareSettings, Member
from saev.comparison.presence import (
    ConceptEvidence,
    bootstrap_auroc,
    planted_aurocs,
    planted_power,
    presence,
    rejection_level,
    thinned_auroc,
)
from saev.concepts.annotations import concepts_of, restrict
from saev.concepts.best_latents import Concepts, concept_codes, score_concepts
from saev.concepts.max_null import auroc_max_null, auroc_max_null_of_maps, permutation_p
from saev.concepts.ranked_codes import CodeEntries
from saev.stats.bootstrap import interval
from saev.stats.correction import benjamini_hochberg

if TYPE_CHECKING:
    import pandas as pd

VERDICTS = ("both", "only_a", "only_b", "neither", "undecided")
THINNED = (2, 3, 5, 8, 13, 20, 32, 50)
"""Positive test images that are left for the power curve."""


@dataclass
class ConceptReading:
    """What one dictionary's best latents say of one source's concepts."""

    concepts: Concepts
    store: CodeStore
    settings: CompareSettings
    best: Int[np.ndarray, " c"]
    """Latent with the best AUROC on the discovery split."""
    pool: Int[np.ndarray, " c"]
    rival: Float[np.ndarray, " c"]
    """That AUROC."""
    auroc: Float[np.ndarray, " c"]
    """On the test split."""
    null: Float[np.ndarray, "c p"]
    q: Float[np.ndarray, " c"]
    n_positive: Float[np.ndarray, " c"]
    draws: dict[tuple[str, int], Float[np.ndarray, " n"]] = field(default_factory=dict)

    def has(self) -> np.ndarray:
        """Concepts with a significant latent; nan is none."""
        return np.nan_to_num(self.q, nan=1.0) <= self.settings.fdr

    def level(self, k: int) -> float:
        """AUROC from which on concept ``k`` would be significant here."""
        others = int(np.delete(self.has(), k).sum())
        tested = int((~np.isnan(self.q)).sum())
        return rejection_level(self.null[k], others, max(tested, 1), self.settings.fdr)

    def resampled(self, split: str, k: int) -> Float[np.ndarray, " n"]:
        """AUROC of the concept's latent on resampled images of a split."""
        if (split, k) not in self.draws:
            value, label, image = self.column(split, k)
            n_images = sum(one == split for one in self.concepts.splits)
            self.draws[split, k] = bootstrap_auroc(
                value, label, image, max(n_images, 1), self.settings.n_bootstrap, self.settings.seed
            )
        return self.draws[split, k]

    def power_of_least(self, k: int) -> float:
        """Chance that a latent of ``least_auroc`` for concept ``k``, planted here, would be found."""
        settings = self.settings
        shown = [
            planted_aurocs(*self.column(split, k)[1:], settings.least_auroc, settings.n_bootstrap,
                           settings.seed + number)
            for number, split in enumerate(("discovery", "test"))
        ]  # fmt: skip
        return planted_power(shown[0], shown[1], float(self.rival[k]), self.level(k))

    def column(self, split: str, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Code, label and number of the image on every row of a split."""
        rows = self.concepts.rows(split, self.store.n_tokens)
        latent = int(self.best[k])
        codes = concept_codes(self.store, self.concepts, latent, latent + 1).on(rows)
        own = codes.latent == (self.pool[k] if codes.n_latents > 1 else 0)
        value = np.zeros(codes.n_rows)
        value[codes.row[own]] = codes.value[own]
        label = np.asarray(self.concepts.labels[rows][:, [k]].todense()).ravel() > 0.5
        per_image = self.store.n_tokens if self.concepts.on_patches else 1
        mine = np.array([one == split for one in self.concepts.splits])
        return value, label, (mine.cumsum() - 1)[rows // per_image]


def read_concepts(
    member: Member, images: ImageList, settings: CompareSettings
) -> list[ConceptReading]:
    """What one dictionary has of every concept in the labels, masks and tables of the images."""
    found = []
    for name, source in images.sources.items():
        first, items = images.of_source(name)
        if not items:
            continue
        for one in concepts_of(source, items, first, member.backbone,
                               table=settings.tables.get(name), seed=settings.seed):  # fmt: skip
            found.append(read_source(member.store, restrict(one, member.store.normal()), settings))
    return found


def read_source(store: CodeStore, concepts: Concepts, settings: CompareSettings) -> ConceptReading:
    """The best latent for every concept of one source, its test, and the null that it beats or not."""
    # the p-values of score_concepts are left aside: the null itself is wanted here
    scores = score_concepts(store, concepts, n_permutations=1, n_shuffles=1, seed=settings.seed)
    best = scores.best()
    at = np.arange(len(best))
    auroc = scores.by_split["test"].auroc[best, at]
    rows = concepts.rows("test", store.n_tokens)
    null = np.maximum.reduce(
        [
            _null(concept_codes(store, concepts, *span).on(rows), concepts, rows, store, settings)
            for span in store.chunks()
        ]
    )
    p = permutation_p(auroc[None], null)[0]
    return ConceptReading(
        concepts, store, settings, best, scores.pool[best, at],
        np.nan_to_num(scores.by_split["discovery"].auroc[best, at], nan=np.inf), auroc, null,
        benjamini_hochberg(p), scores.n_positive["test"],
    )  # fmt: skip


def _null(
    codes: CodeEntries,
    concepts: Concepts,
    rows: np.ndarray,
    store: CodeStore,
    settings: CompareSettings,
) -> Float[np.ndarray, "c p"]:
    labels = concepts.labels[rows]
    if not len(rows):
        return np.full((labels.shape[1], 1), np.nan)
    if concepts.on_patches:
        _, image = np.unique(rows // store.n_tokens, return_inverse=True)
        return auroc_max_null_of_maps(codes, labels, image, rows % store.n_tokens,
                                      settings.n_map_permutations, settings.seed)  # fmt: skip
    n_positive = np.rint(np.asarray(labels.sum(0)).ravel()).astype(np.int64)
    return auroc_max_null(codes, n_positive, settings.n_permutations, settings.seed)


def presence_table(
    names: Sequence[str], readings: Sequence[list[ConceptReading]], settings: CompareSettings
) -> "pd.DataFrame":
    """A verdict for every pair of dictionaries and every concept of the images."""
    import pandas as pd

    rows = []
    for (a, of_a), (b, of_b) in combinations(zip(names, readings, strict=True), 2):
        for one, two in zip(of_a, of_b, strict=True):
            for k, concept in enumerate(one.concepts.names):
                if one.n_positive[k] == 0 or np.isnan(one.auroc[k]):
                    continue  # no test image has it: nothing can be said
                found = presence(_evidence(one, two, k), _evidence(two, one, k),
                                 fdr=settings.fdr, min_power=settings.min_power)  # fmt: skip
                rows.append(
                    {
                        "sae_a": a, "sae_b": b, "source": one.concepts.source,
                        "kind": one.concepts.kind, "concept": concept, "verdict": found.verdict,
                        "power": found.power, "n_positive": one.n_positive[k],
                        "difference_low": found.difference[0],
                        "difference_high": found.difference[1],
                        **_side("a", one, k), **_side("b", two, k),
                    }
                )  # fmt: skip
    columns = ["sae_a", "sae_b", "source", "kind", "concept", "verdict", "power", "n_positive"]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)


def _evidence(own: ConceptReading, other: ConceptReading, k: int) -> ConceptEvidence:
    """Of concept ``k`` in ``own``; its power against the latent by which the other has it, and against
    the least that counts where neither has it."""
    power = least = float("nan")
    own_has, other_has = own.has()[k], other.has()[k]
    if not own_has and not other_has:
        least = own.power_of_least(k)
    if other_has and not own_has:
        power = planted_power(
            other.resampled("discovery", k), other.resampled("test", k), float(own.rival[k]),
            own.level(k),
        )  # fmt: skip
    q = float(own.q[k])
    return ConceptEvidence(1.0 if np.isnan(q) else q, own.resampled("test", k), power, least)


def _side(name: str, reading: ConceptReading, k: int) -> dict[str, Any]:
    low, high = interval(reading.resampled("test", k))
    return {
        f"latent_{name}": int(reading.best[k]),
        f"auroc_{name}": reading.auroc[k],
        f"auroc_{name}_low": low,
        f"auroc_{name}_high": high,
        f"auroc_{name}_null": np.quantile(reading.null[k], 0.95),
        f"q_{name}": reading.q[k],
    }


def power_table(names: Sequence[str], readings: Sequence[list[ConceptReading]]) -> "pd.DataFrame":
    """How many positive images it takes to find concepts that are known to be there.

    For concepts labelled per image that a dictionary has on all test images: the share of them, over
    random draws, that would still be significant with fewer positive images.
    """
    import pandas as pd

    rows = []
    for name, of_one in zip(names, readings, strict=True):
        for reading in of_one:
            known = reading.has().nonzero()[0]
            if reading.concepts.on_patches or not len(known):
                continue
            rows += [{"sae": name, **row} for row in _thinned(reading, known)]
    columns = ["sae", "source", "kind", "n_positive", "found", "n_concepts"]
    return pd.DataFrame(rows, columns=columns)


def _thinned(reading: ConceptReading, known: Int[np.ndarray, " k"]) -> list[dict[str, Any]]:
    concepts, settings = reading.concepts, reading.settings
    rows = concepts.rows("test", reading.store.n_tokens)
    sizes = [n for n in THINNED if n <= reading.n_positive[known].max()]
    nulls = [
        auroc_max_null(concept_codes(reading.store, concepts, *span).on(rows), np.array(sizes),
                       settings.n_permutations, settings.seed)
        for span in reading.store.chunks()
    ]  # fmt: skip
    tested = int((~np.isnan(reading.q)).sum())
    found = []
    for size, null in zip(sizes, np.maximum.reduce(nulls), strict=True):
        level = rejection_level(null, len(known) - 1, tested, settings.fdr)
        enough = known[reading.n_positive[known] >= size]
        shares = [
            (thinned_auroc(*reading.column("test", int(k))[:2], size, seed=settings.seed) >= level).mean()
            for k in enough
        ]  # fmt: skip
        found.append(
            {"source": concepts.source, "kind": concepts.kind, "n_positive": size,
             "found": float(np.mean(shares)), "n_concepts": len(enough)}
        )  # fmt: skip
    return found


def presence_metrics(concepts: "pd.DataFrame") -> dict[str, float]:
    """Numbers of concepts by verdict, for every pair."""
    metrics: dict[str, float] = {}
    for (one, two), rows in concepts.groupby(["sae_a", "sae_b"]):  # type: ignore[misc]
        counts = rows["verdict"].value_counts()
        for verdict in VERDICTS:
            metrics[f"compare/{one}-{two}/concepts_{verdict}"] = float(counts.get(verdict, 0))
    return metrics
