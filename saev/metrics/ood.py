"""Out-of-distribution scores from codes, against MSP, energy, kNN, Mahalanobis.

Every score is higher for images that look foreign. Suffixes: n known images, m judged ones, d width,
c classes, s latents.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Separation(NamedTuple):
    """Of foreign (positive) from known images."""

    auroc: float
    """Null value 0.5."""
    fpr95: float
    """Share of known images called foreign when 95 % of the foreign ones are found. Null 0.95."""


def separation(known_n: Float[np.ndarray, " n"], foreign_m: Float[np.ndarray, " m"]) -> Separation:
    """AUROC (ties count half) and FPR@95."""
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([known_n, foreign_m]))[len(known_n) :]
    m, n = len(foreign_m), len(known_n)
    auroc = (ranks.sum() - m * (m + 1) / 2) / (m * n)
    threshold = np.sort(foreign_m)[int(np.floor(0.05 * m))]
    return Separation(float(auroc), float((known_n >= threshold).mean()))


def msp(logits_mc: Float[np.ndarray, "m c"]) -> Float[np.ndarray, " m"]:
    """Minus the largest softmax probability (Hendrycks & Gimpel 2017)."""
    shifted = np.exp(logits_mc - logits_mc.max(1, keepdims=True))
    return -(shifted.max(1) / shifted.sum(1))


def energy(logits_mc: Float[np.ndarray, "m c"]) -> Float[np.ndarray, " m"]:
    """−log Σ exp(logit) (Liu et al. 2020)."""
    top = logits_mc.max(1)
    return -(top + np.log(np.exp(logits_mc - top[:, None]).sum(1)))


def mahalanobis(
    known_nd: Float[np.ndarray, "n d"],
    label_n: Int[np.ndarray, " n"],
    judged_md: Float[np.ndarray, "m d"],
) -> Float[np.ndarray, " m"]:
    """Distance to the nearest class mean under the shared covariance (Lee et al. 2018).

    The covariance gets 1 % of its mean variance on the diagonal, so few images suffice.
    """
    classes = np.unique(label_n)
    means = np.stack([known_nd[label_n == c].mean(0) for c in classes])
    centred = known_nd - means[np.searchsorted(classes, label_n)]
    covariance = centred.T @ centred / len(known_nd)
    covariance += 0.01 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    whiten = np.linalg.cholesky(np.linalg.inv(covariance))
    gaps = (judged_md[:, None] - means[None]) @ whiten
    return np.square(gaps).sum(-1).min(1)


def knn(
    known_nd: Float[np.ndarray, "n d"], judged_md: Float[np.ndarray, "m d"], k: int = 10
) -> Float[np.ndarray, " m"]:
    """Distance to the k-th nearest known image, both normalised (Sun et al. 2022)."""
    known = known_nd / np.linalg.norm(known_nd, axis=1, keepdims=True)
    judged = judged_md / np.linalg.norm(judged_md, axis=1, keepdims=True)
    cosine = np.sort(judged @ known.T, axis=1)[:, -min(k, len(known))]
    return np.sqrt(np.maximum(2 - 2 * cosine, 0))


def code_surprise(
    known_ns: Float[np.ndarray, "n s"], judged_ms: Float[np.ndarray, "m s"]
) -> Float[np.ndarray, " m"]:
    """Mean over firing latents of −log(share of known images on which the latent fires).

    Foreign images use latents that known ones rarely use. An image on which nothing fires is the most
    foreign of all. Definition of our own, in the spirit of activation profiles (arXiv 2604.26409).
    """
    rate = ((known_ns > 0).sum(0) + 1) / (len(known_ns) + 2)
    fires = judged_ms > 0
    count = fires.sum(1)
    surprise = fires @ -np.log(rate) / np.maximum(count, 1)
    return np.where(count > 0, surprise, -np.log(1 / (len(known_ns) + 2)))
