"""Concept AUROC of the best single latent, on images that did not choose it.

Suffixes: b images, s latents, c concepts, r bootstrap samples.
"""

# scipy types the shape of a sparse array as optional:
# pyright: reportOptionalSubscript=false

import numpy as np
from jaxtyping import Float
from scipy import sparse

from saev.concepts.best_latents import Concepts
from saev.concepts.pair_scores import score_pairs
from saev.concepts.ranked_codes import CodeEntries
from saev.stats.bootstrap import weighted_auroc


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


def _codes(strongest_bs: sparse.csr_matrix) -> CodeEntries:
    n_rows, n_latents = strongest_bs.shape[0], strongest_bs.shape[1]
    entries = strongest_bs.tocoo()
    return CodeEntries(entries.col, entries.row, entries.data, n_latents, n_rows)
