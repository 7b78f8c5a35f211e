"""The ranking of latents and the logistic regression of the benchmark's probes.

Suffixes: n images, m test images, s latents, k features, r bootstrap draws.
"""

import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from saev.metrics.visaebench.seeded import SEED

MAX_ITER = 500
"""Steps of a probe on codes."""


class Classifier(NamedTuple):
    """A fitted logistic regression."""

    predicted_n: Int[np.ndarray, " n"]
    """Classes of the images it was asked about."""
    converged: bool
    """Whether it ended before the largest number of steps."""


def check_one_each(n_images: int, n_given: int, what: str) -> None:
    """Raises ``ValueError`` where images lack one of ``what`` each; the benchmark cuts labels short."""
    if n_images != n_given:
        raise ValueError(f"Got {n_images} images and {n_given} {what}: one each.")


def by_f_statistic(
    codes_ns: Float[np.ndarray, "n s"], label_n: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " s"]:
    """Latents from the largest F of a one-way analysis of variance to the smallest.

    F = between-class over within-class mean square. Latents that do not vary come last.
    """
    from sklearn.feature_selection import f_classif

    with warnings.catch_warnings():
        # of latents that do not vary: they come last
        warnings.simplefilter("ignore", (UserWarning, RuntimeWarning))
        statistic_s, _ = f_classif(codes_ns, label_n)
    return np.nan_to_num(statistic_s, nan=-np.inf).argsort()[::-1]


def classified(
    fit_nk: Float[np.ndarray, "train k"],
    label_n: Int[np.ndarray, " train"],
    *asked: Float[np.ndarray, "_ k"],
    c: float = 1.0,
    max_iter: int = MAX_ITER,
    seed: int = SEED,
) -> list[Classifier]:
    """Classes of each array of images by one multinomial logistic regression.

    Loss: Σ cross-entropy + ‖W‖² / (2·c), by L-BFGS; features are not standardised.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(solver="lbfgs", C=c, max_iter=max_iter, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # told in ``converged``
        model.fit(fit_nk, label_n)
    converged = bool((np.asarray(model.n_iter_) < max_iter).all())
    return [Classifier(np.asarray(model.predict(each)), converged) for each in asked]


def weighted_share(
    right_mk: Bool[np.ndarray, "m k"], weight_rm: Float[np.ndarray, "r m"]
) -> Float[np.ndarray, "r k"]:
    """Share of weight on the images that are right; nan in a draw without weight."""
    total_r1 = weight_rm.sum(1, keepdims=True)
    return weight_rm @ right_mk.astype(float) / np.where(total_r1 > 0, total_r1, np.nan)
