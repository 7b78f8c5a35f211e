"""Pairs of a class and its siblings: their limits, their share, and that share under weights of images.

Suffixes: n images, g images of a group, s latents, r bootstrap draws.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

DRAWS_AT_ONCE = 128
"""Means of 6,144 latents in float64: 6 MB a class."""


class AbsorptionLimits(NamedTuple):
    """When a class counts as absorbed."""

    top_k: int = 10
    """Latents with the largest mean code that are compared."""
    overlap: float = 0.5
    """|class ∩ group| / |class ∪ group| of these above which it is; of ten, seven in common."""
    gap: float = 0.1
    """F1 of the larger probe less that of the smaller one above which it is."""
    k_primary: int = 1
    k_expanded: int = 4
    """Latents of the two probes."""


class Sibling(NamedTuple):
    """A class within a group."""

    group: str
    class_index: int
    overlap: float
    f1_primary: float
    f1_expanded: float
    absorbed: bool
    image_g: Int[np.ndarray, " g"]
    """Images of the group."""
    called_g2: Bool[np.ndarray, "g 2"]
    """What the smaller and the larger probe call the class."""


class Absorption(NamedTuple):
    """Over all pairs of class and group that have enough images."""

    siblings: list[Sibling]
    limits: AbsorptionLimits
    codes_ns: Float[np.ndarray, "n s"]
    label_n: Int[np.ndarray, " n"]

    @property
    def value(self) -> float:
        """Share of the pairs that are absorbed; nan where there is none (the benchmark says 0)."""
        return float(np.mean([one.absorbed for one in self.siblings])) if self.siblings else np.nan

    def resampled(self, weight_rn: Float[np.ndarray, "r n"]) -> Float[np.ndarray, " r"]:
        """The value under weights of images: means and F1 anew, the probes stay.

        Pairs without weight on the class or on its siblings are left out of a draw. Where most pairs
        are below the limits, draws lie above the value: noise carries them over either limit.
        """
        parts = range(0, len(weight_rn), DRAWS_AT_ONCE)
        return np.concatenate([self._under(weight_rn[at : at + DRAWS_AT_ONCE]) for at in parts])

    def _under(self, weight_rn: Float[np.ndarray, "r n"]) -> Float[np.ndarray, " r"]:
        n_absorbed, n_pairs = np.zeros(len(weight_rn)), np.zeros(len(weight_rn))
        group, top_of_group = None, np.empty(0)
        for one in self.siblings:
            weight_rg, is_class_g = weight_rn[:, one.image_g], self._is_class(one)
            if one.group != group:
                group, top_of_group = one.group, self._top(weight_rg, one.image_g)
            top = self._top(weight_rg[:, is_class_g], one.image_g[is_class_g])
            shared = (top & top_of_group).sum(1)
            overlap = shared / (top | top_of_group).sum(1)
            f1_primary, f1_expanded = (
                f1(called_g, is_class_g, weight_rg) for called_g in one.called_g2.T
            )
            absorbed = (f1_expanded - f1_primary > self.limits.gap) | (
                overlap > self.limits.overlap
            )
            of_class = weight_rg[:, is_class_g].sum(1)
            known = (of_class > 0) & (of_class < weight_rg.sum(1))
            n_absorbed += absorbed & known
            n_pairs += known
        return n_absorbed / np.where(n_pairs > 0, n_pairs, np.nan)

    def _is_class(self, one: Sibling) -> Bool[np.ndarray, " g"]:
        return self.label_n[one.image_g] == one.class_index

    def _top(
        self, weight_rg: Float[np.ndarray, "r g"], image_g: Int[np.ndarray, " g"]
    ) -> Bool[np.ndarray, "r s"]:
        """Latents with the largest weighted sum of codes, which are those with the largest mean."""
        sums_rs = weight_rg @ self.codes_ns[image_g].astype(float)
        top_k = min(self.limits.top_k, sums_rs.shape[1])
        largest = np.argpartition(sums_rs, -top_k, axis=1)[:, -top_k:]
        is_top_rs = np.zeros(sums_rs.shape, bool)
        np.put_along_axis(is_top_rs, largest, True, axis=1)
        return is_top_rs


def f1(
    called_g: Bool[np.ndarray, " g"],
    is_class_g: Bool[np.ndarray, " g"],
    weight_rg: Float[np.ndarray, "r g"],
) -> Float[np.ndarray, " r"]:
    """2·TP / (2·TP + FP + FN) under weights of images; 0 where nothing is called or in the class."""
    hits = weight_rg @ (called_g & is_class_g).astype(float)
    both = weight_rg @ (called_g.astype(float) + is_class_g)
    return 2 * hits / np.where(both > 0, both, 1)
