"""Tables of an atlas: one row per latent, per latent and concept, per exemplar, per name.

Their columns are described in docs/formats.md.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from saev.atlas.names.naming import Name, NameProposal
from saev.atlas.samples import Samples
from saev.codes.running_sums import QUANTILES, LatentStatistics
from saev.concepts.best_latents import SPLITS, ConceptScores
from saev.metrics.firing import DENSE_ABOVE

if TYPE_CHECKING:
    import pandas as pd

KEEP_PER_CONCEPT = 10
KEEP_PER_LATENT = 3
"""Rows of ``concepts.parquet``: the best latents of every concept and the best concepts of every
latent; all pairs of 24,576 latents and 1,000 concepts would be 25 million rows a split."""
RANKED_BY = ("auroc", "ap", "f1")


def statistics_table(statistics: LatentStatistics) -> "pd.DataFrame":
    """Firing of every latent, from the running sums."""
    import pandas as pd

    s = statistics
    fired = np.maximum(s.fired_s, 1)
    mean = s.sum_s / fired
    rate = s.fired_s / max(s.n_normal, 1)
    quantiles = s.quantiles()
    return pd.DataFrame(
        {
            "latent": np.arange(s.n_latents),
            "rate_token": rate,
            "rate_image": s.fired_images_s / max(s.n_images, 1),
            "n_tokens_fired": s.fired_s,
            "n_images_fired": s.fired_images_s,
            "max": s.max_s.astype(float),
            "mean": np.where(s.fired_s > 0, mean, 0.0),
            "std": np.sqrt(np.maximum(s.squares_s / fired - mean**2, 0)) * (s.fired_s > 0),
            **{f"q{100 * q:.0f}": quantiles[:, i] for i, q in enumerate(QUANTILES)},
            "dead": s.fired_s == 0,
            "dense": rate > DENSE_ABOVE,
            "position_information": s.position_information(),
        }
    )


def concept_table(scores: Sequence[ConceptScores]) -> "pd.DataFrame":
    """One row per kept latent × concept pair and split."""
    import pandas as pd

    frames = [_pairs(one, *_kept(one)) for one in scores]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(
        columns=["latent", "concept", "source", "kind", "split"]
    )  # fmt: skip


def _kept(scores: ConceptScores) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    n_latents, n_concepts = scores.p.shape
    keep = np.zeros((n_latents, n_concepts), bool)
    for name in RANKED_BY:
        values = np.nan_to_num(getattr(scores.by_split["discovery"], name), nan=-1)
        top = (-values).argsort(0, kind="stable")[:KEEP_PER_CONCEPT]
        keep[top, np.arange(n_concepts)] = True
    values = np.nan_to_num(scores.by_split["discovery"].auroc, nan=-1)
    top = (-values).argsort(1, kind="stable")[:, :KEEP_PER_LATENT]
    keep[np.arange(n_latents)[:, None], top] |= np.take_along_axis(values, top, 1) > 0.5
    latent, concept = keep.nonzero()
    return latent, concept


def _pairs(
    scores: ConceptScores, latent: Int[np.ndarray, " n"], concept: Int[np.ndarray, " n"]
) -> "pd.DataFrame":
    import pandas as pd

    concepts, at = scores.concepts, (latent, concept)
    ranks = {
        f"rank_{name}": _rank(np.nan_to_num(getattr(scores.by_split["discovery"], name)))[at]
        for name in RANKED_BY
    }
    pool = ["none" if concepts.on_patches else ("max", "sum")[i] for i in scores.pool[at]]
    frames = []
    for split in SPLITS:
        pairs, test = scores.by_split[split], split == "test"
        nan = np.full(len(latent), np.nan)
        frames.append(
            pd.DataFrame(
                {
                    "latent": latent,
                    "concept": [concepts.names[i] for i in concept],
                    "source": concepts.source,
                    "kind": concepts.kind,
                    "split": split,
                    "auroc": pairs.auroc[at],
                    "ap": pairs.ap[at],
                    "f1": scores.test.f1[at] if test else pairs.f1[at],
                    "threshold": scores.threshold[at] if test else pairs.threshold[at],
                    "q": scores.q[at] if test else nan,
                    "p": scores.p[at] if test else nan,
                    "precision": scores.test.precision[at] if test else nan,
                    "recall": scores.test.recall[at] if test else nan,
                    "iou": scores.test.iou[at] if test else nan,
                    "purity": scores.purity[at] if test else nan,
                    "r": pairs.r[at],
                    "pool": pool,
                    "n_positive": scores.n_positive[split][concept],
                    "n_rows": scores.n_rows[split],
                    **ranks,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def _rank(values: Float[np.ndarray, "s c"]) -> Int[np.ndarray, "s c"]:
    """0 for the best latent of each concept."""
    order = (-values).argsort(0, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(len(values))[:, None], 0)
    return rank


def exemplar_table(samples: Sequence[Samples], image_ids: Sequence[str]) -> "pd.DataFrame":
    """One row per latent, role and rank."""
    import pandas as pd

    frames = [pd.DataFrame(one._asdict()) for one in samples]
    table = pd.concat(frames, ignore_index=True)
    table["image_id"] = [image_ids[index] for index in table["image"]]
    return table


def proposal_table(proposals: Sequence[NameProposal]) -> "pd.DataFrame":
    """One row per proposed name."""
    import pandas as pd

    columns = list(NameProposal.__dataclass_fields__)
    return pd.DataFrame([asdict(proposal) for proposal in proposals], columns=columns)


def add_names(table: "pd.DataFrame", names: Sequence[Name]) -> None:
    """Fills name, name_confidence, proposer and name_q of the table of latents."""
    table["name"] = [one.name for one in names]
    table["name_confidence"] = [one.confidence for one in names]
    table["proposer"] = [one.proposer for one in names]
    table["name_q"] = [one.q for one in names]
