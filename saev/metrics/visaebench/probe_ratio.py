"""M3, what a linear probe keeps of its accuracy when it reads reconstructions.

Suffixes: n images, m test images, d width, r bootstrap draws.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from saev.metrics.visaebench.classifier import check_one_each, classified, weighted_share
from saev.metrics.visaebench.seeded import SEED, TEST_SHARE, split_images

LARGEST = 2.0


class ProbeRatio(NamedTuple):
    """Of one probe on one set of test images."""

    test_m: Int[np.ndarray, " m"]
    """Positions of the test images."""
    right_m2: Bool[np.ndarray, "m 2"]
    """Whether the probe is right on x, and on x̂."""
    converged: bool

    @property
    def accuracies(self) -> tuple[float, float]:
        """On x, and on x̂."""
        on_x, on_x_hat = self.right_m2.mean(0)
        return float(on_x), float(on_x_hat)

    @property
    def value(self) -> float:
        """Accuracy on x̂ over that on x, at most 2; nan where the latter is 0 (the benchmark says 0)."""
        return float(_clamped(self.right_m2.mean(0, keepdims=True))[0])

    def resampled(self, weight_rm: Float[np.ndarray, "r m"]) -> Float[np.ndarray, " r"]:
        """The value under weights of the test images; the probe stays."""
        return _clamped(weighted_share(self.right_m2, weight_rm))


def probe_ratio(
    x_nd: Float[np.ndarray, "n d"],
    x_hat_nd: Float[np.ndarray, "n d"],
    label_n: Int[np.ndarray, " labels"],
    *,
    test_share: float = TEST_SHARE,
    c: float = 1.0,
    max_iter: int = 1000,
    seed: int = SEED,
) -> ProbeRatio:
    """Fits a logistic regression on x of the training images and asks it about x and x̂ of the others.

    Both are means over the patches of an image, normalised. Range [0, 2], 1 where nothing is lost.

    Null value: accuracy of a random class over that on x, from reconstructions of other images
    (:func:`probe_ratio_null`). Permuted labels are none: both accuracies fall to chance and the
    ratio stays near 1. Source: ViSAEBench 0.1.0, M3.

    Raises:
        ValueError: not as many labels as images, or fewer test images than classes.
    """
    check_one_each(len(x_nd), len(label_n), "labels")
    x_nd, x_hat_nd = np.asarray(x_nd, np.float32), np.asarray(x_hat_nd, np.float32)
    train, test = split_images(label_n, test_share, seed)
    on_x, on_x_hat = classified(
        x_nd[train], label_n[train], x_nd[test], x_hat_nd[test], c=c, max_iter=max_iter, seed=seed
    )
    predicted_m2 = np.stack([on_x.predicted_n, on_x_hat.predicted_n], 1)
    return ProbeRatio(test, predicted_m2 == label_n[test][:, None], on_x.converged)


def probe_ratio_null(
    x_nd: Float[np.ndarray, "n d"],
    x_hat_nd: Float[np.ndarray, "n d"],
    label_n: Int[np.ndarray, " n"],
    rng: np.random.Generator,
    **options: Any,
) -> ProbeRatio:
    """The null of M3: each image gets the reconstruction of a random one."""
    return probe_ratio(x_nd, rng.permutation(x_hat_nd), label_n, **options)


def _clamped(accuracy_r2: Float[np.ndarray, "r 2"]) -> Float[np.ndarray, " r"]:
    on_x, on_x_hat = accuracy_r2.T
    return np.minimum(on_x_hat / np.where(on_x > 0, on_x, np.nan), LARGEST)
