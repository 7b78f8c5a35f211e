"""M7, absorption: classes whose latents are those of their siblings.

Suffixes: n images, g images of a group, s latents.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from saev.metrics.visaebench.absorption_pairs import Absorption, AbsorptionLimits, Sibling, f1
from saev.metrics.visaebench.classifier import by_f_statistic, check_one_each, classified
from saev.metrics.visaebench.seeded import SEED

SMALLEST_GROUP = 10
FEWEST = 3
"""Images of a group; images of a class, and of its siblings together."""


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
    near 1: means of class and group then agree where latents differ in strength, and of thousands of
    latents four fit random labels better than one does (0.96 with 6,144 latents, 20 images of each
    of five siblings). A dictionary that knows nothing of the classes is thus the most absorbed.
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


def _joined(groups: Iterable[Sequence[int]]) -> list[list[int]]:
    """Sets of classes such that groups with a class in common are in one."""
    joined: list[set[int]] = []
    for classes in groups:
        touching = [one for one in joined if one & set(classes)]
        joined = [one for one in joined if one not in touching]
        joined.append(set(classes).union(*touching))
    return [sorted(one) for one in joined]
