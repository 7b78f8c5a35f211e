"""Rankings of latents: what fires in some patches of a picture, and what a search finds.

Suffixes: p tokens, s latents.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from saev.atlas.atlas import Atlas
from saev.errors import UserError
from saev.exploration.answers import RankedLatent
from saev.exploration.start_up import StartUp
from saev.exploration.view_state import SORTS

if TYPE_CHECKING:
    import pandas as pd

DENSE = 0.1
"""A latent that fires on a larger share of tokens says nothing of a patch: a search leaves it out."""
MOST_ROWS = 200


class LatentRows:
    """Makes rows of a table of latents, with what the start-up images and the atlas say of each."""

    def __init__(self, start: StartUp, atlas: Atlas | None, rungs: Mapping[int, str]) -> None:
        self.start, self.atlas, self.rungs = start, atlas, rungs
        self.names: dict[int, tuple[str, float]] = {}
        if atlas is not None:
            named = atlas.latents[atlas.latents["name"].notna()]
            for row in named[["latent", "name", "name_confidence"]].itertuples(index=False):
                self.names[int(row[0])] = (str(row[1]), float(row[2]))

    def look(
        self, z: Float[np.ndarray, "p s"], chosen: Bool[np.ndarray, " p"], n: int, sort: str
    ) -> list[RankedLatent]:
        """The latents that fire on the chosen tokens, best first.

        Raises:
            UserError: an unknown order.
        """
        if sort not in SORTS:
            raise UserError(f"sort={sort!r} is not one of {', '.join(SORTS)}")
        n = max(1, min(n, MOST_ROWS))
        own = z[chosen]
        peak, fires = own.max(0, initial=0.0), (own > 0).sum(0)
        latents = np.flatnonzero(peak > 0)
        percentile = self.start.percentile(latents, peak[latents])
        surprise = self.surprise(latents, fires[latents], len(own))
        order = {"activation": peak[latents], "surprise": surprise, "percentile": percentile}[sort]
        order = np.nan_to_num(order, nan=-np.inf)
        best = np.lexsort((-peak[latents], -order))[:n]
        return [
            self._row(int(latents[k]), float(peak[latents[k]]), float(percentile[k]),
                      float(surprise[k]), int(fires[latents[k]]))
            for k in best
        ]  # fmt: skip

    def surprise(
        self, latents: Int[np.ndarray, " k"], fires: Int[np.ndarray, " k"], n_tokens: int
    ) -> Float[np.ndarray, " k"]:
        """ln of the share of tokens here over the share on the start-up images; a latent that never
        fired there counts as if it had on half a token."""
        seen = max(int(self.start.codes.normal.sum()), 1)
        rate = np.maximum(self.start.stats.rate[latents], 0.5 / seen)
        return np.log(np.maximum(fires, 1e-9) / max(n_tokens, 1) / rate)

    def at(
        self, latents: Sequence[int], scores: Sequence[float], why: Sequence[str]
    ) -> list[RankedLatent]:
        """Rows of a search, in the order given."""
        largest = self.start.stats.largest
        return [
            self._row(k, float(largest[k]), 100.0 if largest[k] > 0 else math.nan, math.nan, 0, score, word)
            for k, score, word in zip(latents, scores, why, strict=True)
        ]  # fmt: skip

    def by_words(self, text: str, n: int) -> list[RankedLatent]:
        """By names, proposed names and concepts of the atlas; UserError without one."""
        if self.atlas is None:
            raise UserError("there are no names to search: start the explorer with atlas=DIR")
        found = self.atlas.search(text).head(n)
        return self._of_table(found, "score", list(found["why"]))

    def by_atlas_concept(self, concept: str, n: int) -> list[RankedLatent]:
        """The latents that predict a concept best, by the atlas; UserError without one."""
        assert self.atlas is not None
        found = self.atlas.for_concept(concept, n).drop_duplicates("latent").head(n)
        return self._of_table(found, "f1", [f"F1 for {concept} on the test split"] * len(found))

    def like_patches(
        self, z: Float[np.ndarray, "p s"], chosen: Bool[np.ndarray, " p"], n: int
    ) -> list[RankedLatent]:
        """By the summed code over the chosen tokens; latents that fire everywhere are left out."""
        inside, whole = z[chosen].sum(0), z.sum(0)
        inside = np.where(self.start.stats.rate > DENSE, 0, inside)
        best = [int(k) for k in (-inside).argsort(kind="stable")[:n] if inside[k] > 0]
        why = [
            f"{inside[k] / whole[k]:.0%} of its code on the image is in the patches" for k in best
        ]
        return self.at(best, [float(inside[k]) for k in best], why)

    def _of_table(self, found: "pd.DataFrame", score: str, why: list[str]) -> list[RankedLatent]:
        known = len(self.start.stats.rate)
        rows = [
            (int(k), float(s), w)
            for k, s, w in zip(found["latent"], found[score], why, strict=True)
            if 0 <= int(k) < known
        ]
        return self.at(*([row[i] for row in rows] for i in range(3)))  # type: ignore[arg-type]

    def _row(
        self, latent: int, activation: float, percentile: float, surprise: float, n_patches: int,
        score: float | None = None, why: str = "",
    ) -> RankedLatent:  # fmt: skip
        name, confidence = self.names.get(latent, (None, None))
        return RankedLatent(
            latent, activation, percentile, float(self.start.stats.rate[latent]), surprise, name,
            confidence, self.rungs.get(latent), n_patches, score, why,
        )  # fmt: skip
