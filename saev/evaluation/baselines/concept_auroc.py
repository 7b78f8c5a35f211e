"""Concept AUROC of the best single latent, on images that did not choose it.

Suffixes: b images, s latents, c concepts, r bootstrap samples.
"""

# scipy types the shape of a sparse array as optional:
# pyright: reportOptionalSubscript=false

import numpy as np
from jaxtyping import Bool, Float
from scipy import sparse

from saev.concepts.best_latents import Concepts
from saev.concepts.pair_scores import Codes, score_pairs


def best_latent_auroc(
    strongest_bs: sparse.csr_matrix, concepts: Concepts, weight_rb: Float[np.ndarray, "r b"]
) -> Float[np.ndarray, " r"]:
    """Mean over concepts of the AUROC of one latent's largest code per image, for each weighting.

    The latent is the one with the best AUROC on the images outside the test split; the score is of
    the test images, which are the columns of ``weight_rb`` in their order. Null value: 0.5.
    Concepts without a positive or a negative test image are left out.
    """
    splits = np.array(concepts.splits)
    test, rest = (splits == "test").nonzero()[0], (splits != "test").nonzero()[0]
    chosen = score_pairs(_codes(strongest_bs[rest]), concepts.labels[rest]).auroc
    known = np.asarray(~np.isnan(chosen).all(0))
    latent_c = np.where(known, np.nan_to_num(chosen, nan=-1.0).argmax(0), -1)
    value_bc = np.asarray(strongest_bs[test][:, latent_c.clip(0)].toarray())
    label_bc = np.asarray(concepts.labels[test].toarray()) > 0
    scores = [
        weighted_auroc(value_bc[:, c], label_bc[:, c], weight_rb)
        for c in range(len(latent_c))
        if known[c] and 0 < label_bc[:, c].sum() < len(label_bc)
    ]
    if not scores:
        return np.full(len(weight_rb), np.nan)
    return np.nanmean(np.stack(scores), axis=0)


def weighted_auroc(
    value_b: Float[np.ndarray, " b"],
    label_b: Bool[np.ndarray, " b"],
    weight_rb: Float[np.ndarray, "r b"],
) -> Float[np.ndarray, " r"]:
    """P(value of a positive > of a negative) + ½ P(equal) for each row of weights; nan without
    weight on either side."""
    order = value_b.argsort(kind="stable")
    value_b, label_b, weight_rb = value_b[order], label_b[order], weight_rb[:, order]
    starts = np.concatenate([[0], np.diff(value_b).nonzero()[0] + 1])
    positive_rg = np.add.reduceat(weight_rb * label_b, starts, axis=1)
    negative_rg = np.add.reduceat(weight_rb * ~label_b, starts, axis=1)
    below_rg = negative_rg.cumsum(1) - negative_rg / 2
    pairs = positive_rg.sum(1) * negative_rg.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (positive_rg * below_rg).sum(1) / np.where(pairs > 0, pairs, np.nan)


def _codes(strongest_bs: sparse.csr_matrix) -> Codes:
    n_rows, n_latents = strongest_bs.shape[0], strongest_bs.shape[1]
    entries = strongest_bs.tocoo()
    return Codes(entries.col, entries.row, entries.data, n_latents, n_rows)
