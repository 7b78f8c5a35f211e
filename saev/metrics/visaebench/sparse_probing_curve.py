"""M4, accuracy of probes on the k latents that tell the classes best.

Suffixes: n images, m test images, s latents, k numbers of latents, r bootstrap draws.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from saev.metrics.visaebench.classifier import (
    MAX_ITER,
    by_f_statistic,
    check_one_each,
    classified,
    weighted_share,
)
from saev.metrics.visaebench.seeded import SEED, TEST_SHARE, split_images

KS = (1, 5, 10, 20, 50, 100)


class ProbingCurve(NamedTuple):
    """Accuracy at each k, on the same test images."""

    ks: tuple[int, ...]
    test_m: Int[np.ndarray, " m"]
    """Positions of the test images."""
    label_m: Int[np.ndarray, " m"]
    right_mk: Bool[np.ndarray, "m k"]
    converged_k: Bool[np.ndarray, " k"]

    @property
    def accuracy_k(self) -> Float[np.ndarray, " k"]:
        """Share of test images that are right."""
        return self.right_mk.mean(0)

    @property
    def value(self) -> float:
        """Area under accuracy over k by trapezia, over the width; the accuracy where k is one.

        k is not in logarithms: with the usual ones 80 of 99 parts are the two largest steps.
        """
        return float(_areas(self.accuracy_k[None], self.ks)[0])

    @property
    def most_frequent(self) -> float:
        """Share of the test images in their largest class."""
        return float(np.bincount(self.label_m).max() / len(self.label_m))

    def resampled(self, weight_rm: Float[np.ndarray, "r m"]) -> Float[np.ndarray, " r"]:
        """The value under weights of the test images; ranking and probes stay."""
        return _areas(weighted_share(self.right_mk, weight_rm), self.ks)


def sparse_probing_curve(
    codes_ns: Float[np.ndarray, "n s"],
    label_n: Int[np.ndarray, " labels"],
    *,
    ks: Sequence[int] = KS,
    ranked_on: Literal["all", "train"] = "all",
    test_share: float = TEST_SHARE,
    max_iter: int = MAX_ITER,
    seed: int = SEED,
) -> ProbingCurve:
    """Ranks latents of image codes by F-statistic, then fits a logistic regression on the first k.

    The benchmark ranks on all images, test images included; ``ranked_on`` "train" does not let the
    test labels choose. k above the number of latents are left out. Range [0, 1].

    Null value: that of permuted labels (:func:`sparse_probing_null`), which is above the largest
    class's share where test images rank: the latents that fit their labels by luck are taken. With
    random codes of 6,144 latents and 1,000 images of ten classes it is 0.24 ("train": 0.09).
    Source: ViSAEBench 0.1.0, M4.

    Raises:
        ValueError: not as many labels as images, fewer test images than classes, or ``ks`` without
            one that is between 1 and the number of latents.
    """
    check_one_each(len(codes_ns), len(label_n), "labels")
    codes_ns = np.asarray(codes_ns, np.float32)
    usable = tuple(k for k in sorted(ks) if k <= codes_ns.shape[1])
    if not usable or usable[0] < 1:
        raise ValueError(f"ks must lie between 1 and {codes_ns.shape[1]} latents, got {ks}.")
    train, test = split_images(label_n, test_share, seed)
    rows = train if ranked_on == "train" else slice(None)
    ranked = by_f_statistic(codes_ns[rows], label_n[rows])
    right, converged = [], []
    for k in usable:
        chosen_nk = codes_ns[:, ranked[:k]]
        (found,) = classified(
            chosen_nk[train], label_n[train], chosen_nk[test], max_iter=max_iter, seed=seed
        )
        right.append(found.predicted_n == label_n[test])
        converged.append(found.converged)
    return ProbingCurve(usable, test, label_n[test], np.stack(right, 1), np.array(converged))


def sparse_probing_null(
    codes_ns: Float[np.ndarray, "n s"],
    label_n: Int[np.ndarray, " n"],
    rng: np.random.Generator,
    **options: Any,
) -> ProbingCurve:
    """The null of M4: the same with the labels of other images."""
    return sparse_probing_curve(codes_ns, rng.permutation(label_n), **options)


def _areas(accuracy_rk: Float[np.ndarray, "r k"], ks: tuple[int, ...]) -> Float[np.ndarray, " r"]:
    if len(ks) == 1:
        return accuracy_rk[:, 0]
    return np.trapezoid(accuracy_rk, x=ks, axis=1) / (ks[-1] - ks[0])
