"""M7, absorption: classes whose latents are those of their siblings.

Suffixes: n images, g images of a group, s latents, r bootstrap draws.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from saev.metrics.visaebench.classifier import by_f_statistic, check_one_each, classified
from saev.metrics.visaebench.seeded import SEED

SMALLEST_GROUP = 10
FEWEST = 3
"""Images of a group; images of a class, and of its siblings together."""

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

        Pairs without weight on the class or on its siblings are left out of a draw.
        """
        parts = range(0, len(weight_rn), DRAWS_AT_ONCE)
        return np.concatenate([self._under(weight_rn[at : at + DRAWS_AT_ONCE]) for at in parts])

    def _under(self, weight_rn: Float[np.ndarray, "r n"]) -> Float[np.ndarray, " r"]:
        n_absorbed, n_pairs = np.zeros(len(weight_rn)), np.zeros(len(weight_rn))
        group, top_of_group = "", np.empty(0)
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


def absorption(
    codes_ns: Float[np.ndarray, "n s"],
    label_n: Int[np.ndarray, " labels"],
    groups: Mapping[str, Sequence[int]],
    *,
    min_group: int = 3,
    limits: AbsorptionLimits = AbsorptionLimits(),  # noqa: B008 - a tuple
    seed: int = SEED,
) -> Absorption:
    """Share of (class, sibling group) pairs of image codes in which the class is absorbed.

    A group maps to its classes; groups of fewer than ``min_group`` classes or ten images, and classes
    of fewer than three images or siblings' images, are left out. A class is absorbed where either
    its ten latents with the largest mean code are mostly those of the whole group, itself included,
    or four latents chosen by F-statistic tell it from its siblings better than one; both probes are
    scored on the images they were fitted on. Range [0, 1], smaller is better.

    Null value: that of labels permuted within the group (:func:`absorption_null`), which is not 0 but
    large: the means of class and group then agree, so where latents differ in strength a dictionary
    that knows nothing of the classes scores 1.
    Ties in the mean code, as between latents that never fire in a group, are broken by the sort.
    Source: ViSAEBench 0.1.0, M7.

    Raises:
        ValueError: not as many labels as images.
    """
    check_one_each(len(codes_ns), len(label_n), "labels")
    codes_ns = np.asarray(codes_ns, np.float32)
    found: list[Sibling] = []
    for group, classes in groups.items():
        image_g = np.isin(label_n, classes).nonzero()[0]
        if len(classes) < min_group or len(image_g) < SMALLEST_GROUP:
            continue
        codes_gs, label_g = codes_ns[image_g], label_n[image_g]
        of_group = _strongest(codes_gs, limits.top_k)
        for class_index in classes:
            is_class_g = label_g == class_index
            if min(is_class_g.sum(), (~is_class_g).sum()) < FEWEST:
                continue
            of_class = _strongest(codes_gs[is_class_g], limits.top_k)
            overlap = len(of_class & of_group) / len(of_class | of_group)
            called_g2 = _called(codes_gs, is_class_g, limits, seed)
            even = np.ones((1, len(image_g)))
            primary, expanded = (float(f1(each, is_class_g, even)[0]) for each in called_g2.T)
            absorbed = expanded - primary > limits.gap or overlap > limits.overlap
            found.append(
                Sibling(
                    group,
                    int(class_index),
                    overlap,
                    primary,
                    expanded,
                    absorbed,
                    image_g,
                    called_g2,
                )
            )
    return Absorption(found, limits, codes_ns, label_n)


def absorption_null(
    codes_ns: Float[np.ndarray, "n s"],
    label_n: Int[np.ndarray, " n"],
    groups: Mapping[str, Sequence[int]],
    rng: np.random.Generator,
    **options: Any,
) -> Absorption:
    """The null of M7: the same with the labels of other images of the same groups.

    Images of classes that share groups change labels among themselves.
    """
    permuted_n = label_n.copy()
    for classes in _joined(groups.values()):
        image_g = np.isin(label_n, classes).nonzero()[0]
        permuted_n[image_g] = rng.permutation(label_n[image_g])
    return absorption(codes_ns, permuted_n, groups, **options)


def f1(
    called_g: Bool[np.ndarray, " g"],
    is_class_g: Bool[np.ndarray, " g"],
    weight_rg: Float[np.ndarray, "r g"],
) -> Float[np.ndarray, " r"]:
    """2·TP / (2·TP + FP + FN) under weights of images; 0 where nothing is called or in the class."""
    hits = weight_rg @ (called_g & is_class_g).astype(float)
    both = weight_rg @ (called_g.astype(float) + is_class_g)
    return 2 * hits / np.where(both > 0, both, 1)


def _strongest(codes_gs: Float[np.ndarray, "g s"], top_k: int) -> set[int]:
    return set(codes_gs.mean(0).argsort()[-top_k:].tolist())


def _called(
    codes_gs: Float[np.ndarray, "g s"],
    is_class_g: Bool[np.ndarray, " g"],
    limits: AbsorptionLimits,
    seed: int,
) -> Bool[np.ndarray, "g 2"]:
    label_g = is_class_g.astype(np.int64)
    ranked = by_f_statistic(codes_gs, label_g)
    called = []
    for k in (limits.k_primary, limits.k_expanded):
        chosen_gk = codes_gs[:, ranked[:k]]
        (probe,) = classified(chosen_gk, label_g, chosen_gk, seed=seed)
        called.append(probe.predicted_n == 1)
    return np.stack(called, 1)


def _joined(groups: Any) -> list[list[int]]:
    """Sets of classes such that groups with a class in common are in one."""
    joined: list[set[int]] = []
    for classes in groups:
        touching = [one for one in joined if one & set(classes)]
        joined = [one for one in joined if one not in touching]
        joined.append(set(classes).union(*touching))
    return [sorted(one) for one in joined]
