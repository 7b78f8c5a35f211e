"""Probes of an atlas: sparse probing, coalitions, OOD scores.

Suffixes: r rows (images or patches), s latents, c concepts, b images.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from saev.codes.images import ImageList
from saev.codes.store import CodeStore
from saev.concepts.best_latents import Concepts, ConceptScores, concept_codes
from saev.concepts.ranked_codes import CodeEntries
from saev.errors import UserError
from saev.metrics.ood import energy, knn, mahalanobis, msp, separation
from saev.metrics.probing import coalition, logistic_probes, probe_r

if TYPE_CHECKING:
    import pandas as pd

N_CANDIDATES = 16
"""Latents with the best average precision that may form a coalition."""


def probe_table(store: CodeStore, scores: Sequence[ConceptScores]) -> "pd.DataFrame":
    """One row per concept: how well the best latent's code predicts it through a logistic curve,
    and what the best few latents cover together. Fitted and chosen on discovery, scored on test."""
    import pandas as pd

    rows = [row for one in scores for row in _probe_source(store, one)]
    return pd.DataFrame(rows, columns=["source", "kind", "concept", "latent", "probe_r", "coalition",
                                       "coalition_f1", "single_f1"])  # fmt: skip


def _probe_source(store: CodeStore, scores: ConceptScores) -> list[dict[str, Any]]:
    concepts = scores.concepts
    precision = np.nan_to_num(scores.by_split["discovery"].ap, nan=-1)
    chosen = (-precision).argsort(0, kind="stable")[:N_CANDIDATES]
    best = scores.best("auroc")
    codes = _codes_of(store, concepts, np.unique(np.concatenate([chosen.ravel(), best])))
    rows = {split: concepts.rows(split, store.n_tokens) for split in ("discovery", "test")}
    found = []
    for c, name in enumerate(concepts.names):
        labels = {
            split: concepts.labels[rows[split]][:, c].toarray()[:, 0] >= 0.5 for split in rows
        }
        if not all(0 < y.sum() < len(y) for y in labels.values()):
            continue
        columns = [int(best[c]), *(int(k) for k in chosen[:, c])]
        values = {
            split: np.stack([codes.column(k, int(scores.pool[k, c]))[rows[split]] for k in columns])
            for split in rows
        }
        probe = logistic_probes(values["discovery"][:1], labels["discovery"][None])
        fires = {
            split: values[split][1:] >= scores.threshold[columns[1:], c][:, None] for split in rows
        }
        team = coalition(fires["discovery"].T, labels["discovery"])
        single = coalition(fires["discovery"].T, labels["discovery"], max_latents=1)
        found.append(
            {
                "source": concepts.source, "kind": concepts.kind, "concept": name,
                "latent": columns[0],
                "probe_r": float(probe_r(values["test"][:1], labels["test"][None], probe)[0]),
                "coalition": [columns[1 + k] for k in team.latents],
                "coalition_f1": _union_f1(fires["test"][team.latents], labels["test"]),
                "single_f1": _union_f1(fires["test"][single.latents], labels["test"]),
            }
        )  # fmt: skip
    return found


class _Columns:
    """Codes of a few latents, by latent and pooling."""

    def __init__(self, n_rows: int) -> None:
        self.n_rows = n_rows
        self.entries: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def add(self, codes: CodeEntries, first: int, wanted: Int[np.ndarray, " k"], n: int) -> None:
        for pool in range(codes.n_latents // n):
            for latent in wanted:
                row = latent - first + pool * n
                begin, end = np.searchsorted(codes.latent, [row, row + 1])
                self.entries[int(latent), pool] = (codes.row[begin:end], codes.value[begin:end])

    def column(self, latent: int, pool: int) -> Float[np.ndarray, " r"]:
        values = np.zeros(self.n_rows, np.float32)
        row, value = self.entries[latent, pool]
        values[row] = value
        return values


def _codes_of(store: CodeStore, concepts: Concepts, latents: Int[np.ndarray, " k"]) -> _Columns:
    columns: _Columns | None = None
    for first, last in store.chunks():
        wanted = latents[(latents >= first) & (latents < last)]
        codes = concept_codes(store, concepts, first, last)
        columns = columns or _Columns(codes.n_rows)
        columns.add(codes, first, wanted, last - first)
    assert columns is not None
    return columns


def _union_f1(fires: Bool[np.ndarray, "k r"], label: Bool[np.ndarray, " r"]) -> float:
    """Of calling a row positive where any of the latents fires."""
    called = np.logical_or.reduce(fires, axis=0)
    return float(2 * (called & label).sum() / max(called.sum() + label.sum(), 1))


def foreign_table(
    store: CodeStore, images: ImageList, splits: Sequence[str], foreign: Sequence[str]
) -> "pd.DataFrame":
    """How well scores detect images of the foreign sources among test images of the others.

    Known images that are not of the test split set rates, means and neighbours. ``codes``: mean
    surprise of the firing latents, −log of the share of known images on which they fire.

    Raises:
        UserError: a source that is not there, or nothing on one side.
    """
    import pandas as pd

    if unknown := sorted(set(foreign) - set(images.sources)):
        raise UserError(
            f"atlas.foreign names the source {unknown[0]!r}; there are {', '.join(images.sources)}"
        )
    strange = np.array([name in foreign for name, _ in images.entries])
    test = np.array([split == "test" for split in splits])
    fit, known = ~strange & ~test, ~strange & test
    if not (strange.any() and known.any() and fit.any()):
        raise UserError("atlas.foreign leaves no images on one side; name some sources, not all")
    scores = {"codes": _surprise(store, fit)}
    embedding, logits = store.embeddings().astype(float), store.logits()
    scores["knn"] = knn(embedding[fit], embedding)
    if logits is not None:
        logits = logits.astype(float)
        scores |= {"msp": msp(logits), "energy": energy(logits)}
        label = logits[fit].argmax(1)
        scores["mahalanobis"] = mahalanobis(embedding[fit], label, embedding)
    rows = []
    for name, score in scores.items():
        found = separation(score[known], score[strange])
        rows.append((name, found.auroc, found.fpr95, int(known.sum()), int(strange.sum())))
    return pd.DataFrame(rows, columns=["score", "auroc", "fpr95", "n_known", "n_foreign"])


def _surprise(store: CodeStore, fit: Bool[np.ndarray, " b"]) -> Float[np.ndarray, " b"]:
    """:func:`saev.metrics.ood.code_surprise` of every image, a range of latents at a time."""
    n = len(fit)
    total, fired = np.zeros(n), np.zeros(n)
    for first, last in store.chunks():
        codes = store.image_codes(first, last)
        seen = np.bincount(codes.latent[fit[codes.image]] - first, minlength=last - first)
        surprise = -np.log((seen + 1) / (fit.sum() + 2))
        total += np.bincount(codes.image, surprise[codes.latent - first], n)
        fired += np.bincount(codes.image, minlength=n)
    return np.where(fired > 0, total / np.maximum(fired, 1), -np.log(1 / (fit.sum() + 2)))
