"""How well a dictionary found features that are known: recovery, splitting, absorption.

Suffixes: n tokens, d width, s latents, m features.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from scipy import sparse
from torch import Tensor

from saev.concepts.pair_scores import at_thresholds, score_pairs
from saev.concepts.ranked_codes import CodeEntries
from saev.sae import SparseAutoencoder

CHUNK = 8192
"""Tokens encoded at once."""
CARRIES = 0.2
"""Share of a feature's length from which a latent counts as one of its carriers."""
ABSORBS = 0.5
"""Share of a feature's length that a single other latent must write where the main one is silent."""


class Predictors(NamedTuple):
    """For each feature the latent that predicts it best, chosen on other tokens than it is scored on."""

    latent: Int[np.ndarray, " m"]
    threshold: Float[np.ndarray, " m"]
    """A code of at least this says that the feature is on."""
    f1: Float[np.ndarray, " m"]
    """2TP/(2TP + FP + FN) at the threshold. Null value: near twice the rate, for a code that knows
    nothing and says always."""
    auroc: Float[np.ndarray, " m"]
    """P(code on > code off) + ½ P(equal). Null value ½."""


class Carriers(NamedTuple):
    """How a feature's direction is divided among latents."""

    cosine: Float[np.ndarray, " m"]
    """Of the direction and the main latent's atom."""
    best_cosine: Float[np.ndarray, " m"]
    """Of the direction and the closest atom, whichever latent that is."""
    carries: Bool[np.ndarray, "s m"]
    """Latents that write at least ``CARRIES`` of the feature: mean code where it is on minus where it
    is off, times the atom's part along the direction, over the feature's mean length. One for each
    feature is perfect; none means that the feature is spread over many, two that it is split."""
    silent: Float[np.ndarray, " m"]
    """Of the feature's tokens, those on which the main latent is below its threshold."""
    absorbed: Float[np.ndarray, " m"]
    """Of the feature's tokens, those on which the main latent is silent and one other latent writes at
    least ``ABSORBS`` of the feature (after Chanin et al. 2024, with directions that are known)."""


@torch.no_grad()
def encode_tokens(sae: SparseAutoencoder, x: Float[Tensor, "n d"]) -> sparse.csr_matrix:
    """Codes of raw activations (n, s), sparse; those of abnormal tokens are left out."""
    parts = []
    for chunk in x.split(CHUNK):
        z = sae.encode(chunk.float()) * sae.is_normal(chunk.float())[:, None]
        parts.append(sparse.csr_matrix(z.clamp_min(0).numpy()))
    return sparse.csr_matrix(sparse.vstack(parts))


def as_entries(codes: sparse.csr_matrix) -> CodeEntries:
    """The positive codes sorted by latent."""
    by_latent = codes.tocsc()
    n_rows, n_latents = by_latent.shape  # pyright: ignore[reportGeneralTypeIssues]
    latent = np.repeat(np.arange(n_latents), np.diff(by_latent.indptr))
    return CodeEntries(latent, by_latent.indices, by_latent.data, n_latents, n_rows)


def best_predictors(
    choose: tuple[sparse.csr_matrix, Bool[np.ndarray, "n m"]],
    test: tuple[sparse.csr_matrix, Bool[np.ndarray, "k m"]],
) -> Predictors:
    """Latent and threshold with the best F1 on the first codes and labels, scored on the second."""
    found = score_pairs(as_entries(choose[0]), _labels(choose[1]))
    latent_m = found.f1.argmax(0)
    features = np.arange(choose[1].shape[1])
    threshold_m = found.threshold[latent_m, features]
    entries, labels = as_entries(test[0][:, latent_m]), _labels(test[1])
    fixed = np.tile(threshold_m, (len(features), 1))
    f1 = at_thresholds(entries, labels, fixed).f1
    auroc = score_pairs(entries, labels).auroc
    return Predictors(latent_m, threshold_m, f1[features, features], auroc[features, features])


def carriers(
    sae: SparseAutoencoder,
    codes: sparse.csr_matrix,
    lengths: Float[np.ndarray, "n m"],
    directions: Float[Tensor, "m d"],
    main: Predictors,
) -> Carriers:
    """Which latents write each feature.

    Args:
        codes: of some tokens.
        lengths: with which each feature was added to them, raw units, 0 where it is off.
        directions: of length 1.
    """
    atoms_sd = F.normalize(sae.W_dec.detach().cpu(), dim=1)
    cosine_sm = (atoms_sd @ directions.T).numpy()
    writes_sm = (sae.W_dec.detach().cpu() @ directions.T / float(sae.scale)).numpy()
    on_nm = lengths > 0
    n_on = on_nm.sum(0)
    on_sum = (codes.T @ on_nm.astype(np.float32)).astype(np.float64)
    total = np.asarray(codes.sum(0)).ravel()[:, None]
    gain_sm = on_sum / n_on - (total - on_sum) / (len(on_nm) - n_on)
    mean_length = lengths.sum(0) / n_on
    share_sm = gain_sm * writes_sm / mean_length
    silent, absorbed = [], []
    for m, latent in enumerate(main.latent):
        rows = np.flatnonzero(on_nm[:, m])
        own = codes[rows]
        quiet = own[:, latent].toarray().ravel() < main.threshold[m]
        others = own[quiet].multiply(writes_sm[None, :, m]).tocsc()
        others = others[:, np.arange(codes.shape[1]) != latent]  # pyright: ignore
        most = others.max(1).toarray().ravel() if quiet.any() else np.zeros(0)
        silent.append(quiet.mean())
        absorbed.append((most >= ABSORBS * lengths[rows[quiet], m]).sum() / len(rows))
    features = np.arange(len(main.latent))
    return Carriers(
        cosine_sm[main.latent, features],
        cosine_sm.max(0),
        share_sm >= CARRIES,
        np.array(silent),
        np.array(absorbed),
    )


def detector_codes(
    x: Float[Tensor, "n d"], directions: Float[Tensor, "m d"], fitted_on: Float[Tensor, "k d"]
) -> sparse.csr_matrix:
    """One code per feature from the best linear detector that knows its direction, Σ⁻¹·d: a
    yardstick for how hard the features are, which latents that compete for tokens can exceed.

    Args:
        fitted_on: activations without features, whose mean and covariance count.
    """
    mean = fitted_on.mean(0)
    read_md = torch.linalg.solve(torch.cov(fitted_on.T), directions.T).T
    scores = (x - mean) @ read_md.T
    return sparse.csr_matrix((scores - scores.min() + 1e-3).numpy())


def _labels(on_nm: Bool[np.ndarray, "n m"]) -> sparse.csr_matrix:
    return sparse.csr_matrix(on_nm.astype(np.float64))
