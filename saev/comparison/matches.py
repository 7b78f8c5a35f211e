"""Matches: the best partner of every latent in every other dictionary.

Suffixes: a, c latents of the two dictionaries.
"""

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import torch

from saev.codes.exemplars import top_images
from saev.codes.images import ImageList
from saev.codes.store import CodeStore
from saev.comparison.matching import Matches, jaccard, match, match_exemplars
from saev.comparison.members import CompareSettings, Member
from saev.comparison.strata import like_images
from saev.concepts.ranked_codes import CodeEntries

if TYPE_CHECKING:
    import pandas as pd

N_EXEMPLARS = 16


def match_table(
    members: list[Member],
    images: ImageList,
    settings: CompareSettings,
    device: str | torch.device = "cpu",
) -> "pd.DataFrame":
    """Best partners for every ordered pair of dictionaries: by correlation of codes and by common
    exemplars, each with its control, mis-paired among images of one source and like activity.

    With ``rows="patch"`` the dictionaries must see the same patches.
    """
    import pandas as pd

    codes = {member.name: _codes(member.store, settings.rows) for member in members}
    tops = {member.name: exemplars(member.store) for member in members}
    block_rows = members[0].store.n_tokens if settings.rows == "patch" else 1
    n_images = len(members[0].store.image_ids)
    source_b = np.unique([name for name, _ in images.entries], return_inverse=True)[1]
    frames = []
    for one, two in combinations([member.name for member in members], 2):
        strata = like_images(codes[one], codes[two], source_b, block_rows)
        by_code = match(codes[one], codes[two], strata=strata, n_draws=settings.n_draws,
                        block_rows=block_rows, seed=settings.seed, device=device)  # fmt: skip
        by_exemplar = match_exemplars(tops[one], tops[two], n_images, strata=strata,
                                      n_draws=settings.n_draws, seed=settings.seed)  # fmt: skip
        for a, c, ways in ((one, two, 0), (two, one, 1)):
            frames.append(_frame(a, c, by_code[ways], by_exemplar[ways], tops[a], tops[c]))
    return pd.concat(frames, ignore_index=True)


def exemplars(store: CodeStore) -> list[list[int]]:
    """The strongest images of every latent, by position."""
    return top_images(store, ["discovery"] * len(store.image_ids), N_EXEMPLARS).seen


def _frame(
    a: str, c: str, codes: Matches, shown: Matches, tops_a: list[list[int]], tops_c: list[list[int]]
) -> "pd.DataFrame":
    import pandas as pd

    alive = (codes.partner >= 0).nonzero()[0]
    overlap = [jaccard(tops_a[k], tops_c[codes.partner[k]]) for k in alive]
    return pd.DataFrame(
        {
            "sae_a": a, "latent_a": alive, "sae_b": c, "latent_b": codes.partner[alive],
            "correlation": codes.similarity[alive], "correlation_null": codes.null[alive],
            "p": codes.p[alive], "q": codes.q[alive], "mutual": codes.mutual[alive],
            "jaccard": overlap, "exemplar_partner": shown.partner[alive],
            "exemplar_jaccard": shown.similarity[alive], "exemplar_null": shown.null[alive],
            "exemplar_q": shown.q[alive], "agree": codes.partner[alive] == shown.partner[alive],
        }
    )  # fmt: skip


def _codes(store: CodeStore, rows: str) -> CodeEntries:
    n_images = len(store.image_ids)
    if rows == "patch":
        latent, row, value = store.token_codes(0, store.n_latents)
        return CodeEntries(latent, row, value, store.n_latents, n_images * store.n_tokens)
    found = store.image_codes()
    return CodeEntries(found.latent, found.image, found.max, store.n_latents, n_images)


def match_metrics(matches: "pd.DataFrame", fdr: float) -> dict[str, float]:
    """Shares of matched latents for every ordered pair."""
    metrics: dict[str, float] = {}
    for (one, two), rows in matches.groupby(["sae_a", "sae_b"]):  # type: ignore[misc]
        found = {
            "matched": (rows["q"] <= fdr).mean(),
            "correlation_median": rows["correlation"].median(),
            "correlation_null_median": rows["correlation_null"].median(),
            "mutual": rows["mutual"].mean(),
            "jaccard_mean": rows["jaccard"].mean(),
            "exemplar_matched": (rows["exemplar_q"] <= fdr).mean(),
            "exemplar_jaccard_mean": rows["exemplar_jaccard"].mean(),
            "exemplar_null_mean": rows["exemplar_null"].mean(),
            "agree": rows["agree"].mean(),
        }
        metrics |= {f"compare/{one}-{two}/{name}": float(value) for name, value in found.items()}
    return {name: value for name, value in metrics.items() if np.isfinite(value)}
