"""Best concepts: every latent tested on every source's concepts, and numbers for the run."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from saev.atlas.settings import AtlasSettings
from saev.backbones import Backbone
from saev.codes.images import ImageList
from saev.codes.store import CodeStore
from saev.concepts.annotations import concepts_of, restrict
from saev.concepts.best_latents import Concepts, ConceptScores, score_concepts
from saev.concepts.pair_scores import coverage_at
from saev.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


def annotations(images: ImageList, backbone: Backbone, atlas: AtlasSettings) -> list[Concepts]:
    """What is known of the images of all sources.

    Raises:
        UserError: a table for a source that is not there, or annotations that do not match.
    """
    if unknown := sorted(set(atlas.tables) - set(images.sources)):
        raise UserError(
            f"atlas.tables names the source {unknown[0]!r}; there are {', '.join(images.sources)}"
        )
    found = []
    for name, source in images.sources.items():
        first, items = images.of_source(name)
        if items:
            found += concepts_of(
                source, items, first, backbone, masks=atlas.masks, table=atlas.tables.get(name),
                seed=atlas.seed,
            )  # fmt: skip
    return found


def score_all(
    store: CodeStore, concepts: Sequence[Concepts], atlas: AtlasSettings
) -> list[ConceptScores]:
    """Scores of all latents for all concepts, on the tokens that the dictionary answers for."""
    normal = store.normal()
    return [
        score_concepts(
            store, restrict(one, normal),
            n_permutations=atlas.n_map_permutations if one.on_patches else atlas.n_permutations,
            fdr=atlas.fdr, seed=atlas.seed,
        )
        for one in concepts
    ]  # fmt: skip


def best_concepts(table: "pd.DataFrame", scores: Sequence[ConceptScores]) -> None:
    """Adds the concept that each latent predicts best on the discovery split, and what the test split
    says of it."""
    n = len(table)
    columns: dict[str, Any] = {
        "best_concept": np.full(n, None, object), "concept_auroc": np.full(n, np.nan),
        "concept_ap": np.full(n, np.nan), "concept_f1": np.full(n, np.nan),
        "concept_q": np.full(n, np.nan),
    }  # fmt: skip
    strongest = np.full(n, -np.inf)
    for one in scores:
        found = np.nan_to_num(one.by_split["discovery"].f1, nan=-1)
        concept = found.argmax(1)
        value = found[np.arange(n), concept]
        better = (value > strongest) & (value > 0)
        strongest = np.where(better, value, strongest)
        at = (better.nonzero()[0], concept[better])
        columns["best_concept"][better] = [one.concepts.names[c] for c in at[1]]
        columns["concept_auroc"][better] = one.by_split["test"].auroc[at]
        columns["concept_ap"][better] = one.by_split["test"].ap[at]
        columns["concept_f1"][better] = one.test.f1[at]
        columns["concept_q"][better] = one.q[at]
    for name, column in columns.items():
        table[name] = column


def concept_metrics(scores: ConceptScores) -> dict[str, float]:
    """Test scores of the latents chosen on the discovery split."""
    prefix = f"concepts/{scores.concepts.source}/{scores.concepts.kind}"
    at = np.arange(len(scores.concepts.names))
    auroc = scores.by_split["test"].auroc[scores.best("auroc"), at]
    known = ~np.isnan(auroc)
    if not known.any():
        return {}
    ap = scores.by_split["test"].ap[scores.best("ap"), at]
    f1 = scores.test.f1[scores.best("f1"), at]
    q = scores.q[scores.best("auroc"), at]
    return {
        f"{prefix}/n": float(known.sum()),
        f"{prefix}/auroc_mean": float(auroc[known].mean()),
        f"{prefix}/auroc_above_0.9": float((auroc[known] >= 0.9).mean()),
        f"{prefix}/map": float(ap[known].mean()),
        f"{prefix}/coverage_at_0.3": coverage_at(ap),
        f"{prefix}/f1_mean": float(f1[known].mean()),
        f"{prefix}/discoveries": float((q[known] <= 0.05).mean()),
        f"{prefix}/discoveries_shuffled": scores.shuffled_discoveries,
    }
