"""Sums per image of what one dictionary did, and the metrics under any weighting of the images.

A bootstrap by image is a weighting by how often each image was drawn, so every metric here takes
weights; with weights 1 they are the metrics of ``saev.metrics``.

Suffixes: b images, d width, s latents, e embedding.
"""

# scipy types the shape of a sparse array as optional:
# pyright: reportOptionalSubscript=false

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import sparse

from saev.metrics import prediction_fidelity
from saev.metrics.firing import DENSE_ABOVE

MIN_SUPPORT = 10
"""Effective images below which a latent's monosemanticity says nothing, as in the atlas."""


@dataclass
class ImageSums:
    """Sums over the normal tokens of each image."""

    n_b: Float[np.ndarray, " b"]
    total_bd: Float[np.ndarray, "b d"]
    """Of the activations, shifted by a constant."""
    squares_b: Float[np.ndarray, " b"]
    """Of the same, squared."""
    errors_b: Float[np.ndarray, " b"]
    ratios_b: Float[np.ndarray, " b"]
    """Squared error over squared norm."""
    active_b: Float[np.ndarray, " b"]
    fired_bs: sparse.csr_matrix
    """Tokens on which each latent fires."""
    strongest_bs: sparse.csr_matrix
    """Largest code."""
    kl_b: Float[np.ndarray, " b"] | None
    """Clean predictions against those on the reconstruction; None where fidelity was not measured."""
    kl_mean_b: Float[np.ndarray, " b"] | None
    """The same on the mean activation."""
    agrees_b: Float[np.ndarray, " b"] | None


def explained_variance(sums: ImageSums, weight_b: Float[np.ndarray, " b"]) -> float:
    """See ``ExplainedVariance``."""
    n = weight_b @ sums.n_b
    variation = weight_b @ sums.squares_b - np.square(weight_b @ sums.total_bd).sum() / n
    return float(1 - weight_b @ sums.errors_b / variation)


def nmse(sums: ImageSums, weight_b: Float[np.ndarray, " b"]) -> float:
    """See ``NormalizedMSE``."""
    return float(weight_b @ sums.ratios_b / (weight_b @ sums.n_b))


def l0(sums: ImageSums, weight_b: Float[np.ndarray, " b"]) -> float:
    """See ``L0``."""
    return float(weight_b @ sums.active_b / (weight_b @ sums.n_b))


def dead(sums: ImageSums, weight_b: Float[np.ndarray, " b"]) -> float:
    """Share of latents that fired on no token of the images drawn."""
    return float((sums.fired_bs.T @ weight_b == 0).mean())


def dense(sums: ImageSums, weight_b: Float[np.ndarray, " b"]) -> float:
    """Share of latents that fire on more than ``DENSE_ABOVE`` of the tokens."""
    return float((sums.fired_bs.T @ weight_b > DENSE_ABOVE * (weight_b @ sums.n_b)).mean())


def kl_recovered(sums: ImageSums, weight_b: Float[np.ndarray, " b"]) -> float:
    """See ``saev.metrics.prediction_fidelity.kl_share_recovered``; nan where it was not measured."""
    if sums.kl_b is None or sums.kl_mean_b is None:
        return float("nan")
    return prediction_fidelity.kl_share_recovered(
        float(weight_b @ sums.kl_b), float(weight_b @ sums.kl_mean_b)
    )


def agreement(sums: ImageSums, weight_b: Float[np.ndarray, " b"]) -> float:
    """Share of images whose predicted class is the clean model's; nan where it was not measured."""
    if sums.agrees_b is None:
        return float("nan")
    return float(weight_b @ sums.agrees_b / weight_b.sum())


def monosemanticity(
    sums: ImageSums, embedding_be: Float[np.ndarray, "b e"], weight_b: Float[np.ndarray, " b"]
) -> float:
    """Mean corrected score of the latents with enough images behind them.

    As ``MonosemanticityScore`` on codes times weights, which leaves out every pair of an image and
    its own copy; chance is corrected in the same way.
    """
    norms = np.linalg.norm(embedding_be, axis=1, keepdims=True)
    unit_be = embedding_be / np.maximum(norms, 1e-12)
    code_bs = sparse.csr_matrix(sparse.diags(weight_b) @ sums.strongest_bs)
    total_s = np.asarray(code_bs.sum(0)).ravel()
    squares_s = np.asarray(code_bs.multiply(code_bs).sum(0)).ravel()
    pairs_s = np.square(total_s) - squares_s
    known = (squares_s > 0) & (np.square(total_s) >= MIN_SUPPORT * squares_s)
    if not known.any():
        return float("nan")
    likeness_s = np.square(code_bs.T @ unit_be).sum(1) - squares_s
    own = np.square(weight_b).sum()
    chance = (np.square(weight_b @ unit_be).sum() - own) / (weight_b.sum() ** 2 - own)
    ms = likeness_s[known] / pairs_s[known]
    return float(((ms - chance) / (1 - chance)).mean())
