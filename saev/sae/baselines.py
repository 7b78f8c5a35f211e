"""Baseline dictionaries (PCA, ICA, k-means, random …) that a trained SAE must beat.

Each is an ordinary ``SparseAutoencoder``, so every command that takes one takes these.

Shapes: `n` activations, `d` d_model, `s` d_sae, `r` components.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from saev.sae.config import SAEConfig
from saev.sae.initialize import best_gain, latents_per_token, some_normal
from saev.sae.model import SparseAutoencoder

KINDS = ("raw", "random", "pca", "ica", "kmeans", "semi_nmf", "untrained")

OVERCOMPLETE = ("kmeans", "semi_nmf", "untrained")
"""Kinds whose number of latents is chosen; the others have two for each dimension."""

FIT_TOKENS = 8192
"""Activations that ICA and semi-NMF look at; more changes little and takes long."""


class Baseline:
    """A baseline to be fitted without another dictionary to be like; keys of ``conf/model/<kind>.yaml``.

    Args:
        kind: one of ``KINDS``.
        d_model: width of the activations.
        k: latents per token; null for ``kmeans``, which takes one.
        expansion: d_sae / d_model, for the kinds of ``OVERCOMPLETE``.
        d_sae: instead of ``expansion``.
        seed: of what is drawn.

    Raises:
        ValueError: an argument that is out of range or has no effect.
    """

    def __init__(
        self,
        kind: str,
        d_model: int,
        k: int | None = None,
        expansion: float | int | None = None,
        d_sae: int | None = None,
        seed: int = 0,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}.")
        if kind == "kmeans" and k is not None:
            raise ValueError(f"k has no effect with kind=kmeans, where a token takes one, got {k}.")
        if kind not in OVERCOMPLETE and (expansion is not None or d_sae is not None):
            raise ValueError(
                f"expansion and d_sae have no effect with kind={kind}, which has two latents for "
                f"each dimension; got {expansion} and {d_sae}."
            )
        if kind in OVERCOMPLETE and expansion is None and d_sae is None:
            raise ValueError(f"expansion or d_sae must be given for kind={kind}.")
        if kind in OVERCOMPLETE:
            d_sae = d_sae if d_sae is not None else round(d_model * (expansion or 0))
        self.kind, self.seed = kind, seed
        self.shape = SAEConfig(
            d_model=d_model, d_sae=d_sae or 2 * d_model, activation="topk", k=1 if k is None else k
        )
        if kind != "kmeans" and k is None:
            raise ValueError(f"k must be given for kind={kind}.")

    def fit(
        self,
        pool: Float[Tensor, "n d"],
        mean: Float[Tensor, " d"],
        scale: float,
        max_norm: float | None,
        **belongs_to: Any,
    ) -> SparseAutoencoder:
        """The fitted dictionary; ``belongs_to`` holds fields of ``SAEConfig`` that say of what."""
        like = SparseAutoencoder(replace(self.shape, **belongs_to), torch.Generator())
        like.set_statistics(mean, scale, max_norm)
        return fit_baseline(self.kind, like, pool, self.seed)


@torch.no_grad()
def fit_baseline(
    kind: str,
    like: SparseAutoencoder,
    pool: Float[Tensor, "n d"],
    seed: int = 0,
    *,
    dense: bool = False,
) -> SparseAutoencoder:
    """A baseline with the normalisation, provenance and sparsity of another dictionary.

    - ``raw``: the dimensions of the (normalised) activations, each sign a latent;
    - ``random``: a random orthogonal basis, both signs;
    - ``pca``: principal components, both signs;
    - ``ica``: independent components, both signs (FastICA of scikit-learn);
    - ``kmeans``: unit vectors of d_sae cluster centres, of which each token takes the best one;
    - ``semi_nmf``: components with non-negative codes, which a linear map regresses (Ding et al.
      2010);
    - ``untrained``: d_sae random atoms, encoder = decoder transposed.

    But for ``kmeans`` each token keeps as many latents as ``like`` does on average; one factor on
    all codes makes the squared error least, which differs from 1 where atoms overlap.

    Args:
        pool: raw activations to fit on; those that are not normal are left out.
        dense: keep every code above 0 instead, as where units are read without a sparse code.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"baseline must be one of {', '.join(KINDS)}, got {kind!r}.")
    normal = pool[like.is_normal(pool)]
    x = like.normalize(normal).float().cpu()
    center = x.mean(0)
    x = x - center
    width = x.shape[1]
    if kind == "raw":
        W_enc, W_dec = both_signs(torch.eye(width), torch.eye(width))
    elif kind == "random":
        generator = torch.Generator().manual_seed(seed)
        basis = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
        W_enc, W_dec = both_signs(basis, basis)
    elif kind == "pca":
        components = torch.linalg.svd(x, full_matrices=False).Vh
        W_enc, W_dec = both_signs(components, components)
    elif kind == "ica":
        W_enc, W_dec = both_signs(*_ica(x[:FIT_TOKENS], seed))
    elif kind == "kmeans":
        W_dec = F.normalize(_centres(x, like.cfg.d_sae, seed), dim=1)
        W_enc = W_dec
    elif kind == "semi_nmf":
        W_enc, W_dec = _semi_nmf(x[:FIT_TOKENS], min(like.cfg.d_sae, 2 * width), seed)
    else:
        W_dec = like.untrained(seed).W_dec.float().cpu()
        W_enc = W_dec
    if dense:
        return _dictionary(like, kind, W_enc, W_dec, center, None)
    k = 1 if kind == "kmeans" else latents_per_token(like, some_normal(like, pool))
    k = k if k is None else min(k, len(W_dec))
    sae = _dictionary(like, kind, W_enc, W_dec, center, k)
    sae.W_enc.mul_(best_gain(sae, some_normal(sae, pool)))
    return sae


def both_signs(
    readout: Float[Tensor, "r d"], atoms: Float[Tensor, "r d"]
) -> tuple[Float[Tensor, "r2 d"], Float[Tensor, "r2 d"]]:
    """Codes cannot be negative: a component becomes two latents that point opposite ways."""
    return torch.cat([readout, -readout]), torch.cat([atoms, -atoms])


def _dictionary(
    like: SparseAutoencoder,
    kind: str,
    W_enc: Float[Tensor, "s d"],
    W_dec: Float[Tensor, "s d"],
    center: Float[Tensor, " d"],
    k: int | None,
) -> SparseAutoencoder:
    cfg = replace(
        like.cfg,
        d_sae=len(W_dec),
        activation="relu" if k is None else "topk",
        k=k,
        subtract_b_dec=True,
        recipe={"baseline": kind},
    )
    sae = SparseAutoencoder(cfg, torch.Generator())
    sae.set_statistics(like.mean.float().cpu(), float(like.scale), cfg.max_norm)
    sae.W_enc.copy_(W_enc)
    sae.W_dec.copy_(W_dec)
    sae.b_dec.copy_(center)
    return sae.to(like.W_enc.device).eval().requires_grad_(False)


def _ica(x: Float[Tensor, "n d"], seed: int) -> tuple[Float[Tensor, "r d"], Float[Tensor, "r d"]]:
    """Rows that read a component out, and the unit direction each one writes."""
    import warnings

    from sklearn.decomposition import FastICA

    ica = FastICA(whiten="unit-variance", max_iter=300, tol=1e-3, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged: a baseline all the same
        ica.fit(x.numpy())
    writes = torch.from_numpy(np.ascontiguousarray(np.asarray(ica.mixing_).T)).float()
    reads = torch.from_numpy(ica.components_).float()
    norms = torch.linalg.vector_norm(writes, dim=1, keepdim=True)
    return reads * norms, writes / norms


def _centres(x: Float[Tensor, "n d"], n_clusters: int, seed: int) -> Float[Tensor, "s d"]:
    from sklearn.cluster import MiniBatchKMeans

    if n_clusters >= len(x):
        raise ValueError(f"kmeans needs more than d_sae={n_clusters} activations, got {len(x)}.")
    fitted = MiniBatchKMeans(
        n_clusters,
        random_state=seed,
        n_init=1,  # pyright: ignore[reportArgumentType]
        batch_size=max(1024, n_clusters),
        max_iter=20,
    ).fit(x.numpy())
    return torch.from_numpy(fitted.cluster_centers_).float()


def _semi_nmf(
    x: Float[Tensor, "n d"], n_components: int, seed: int, n_iterations: int = 50
) -> tuple[Float[Tensor, "r d"], Float[Tensor, "r d"]]:
    """x ≈ z·D with z ≥ 0 by multiplicative updates (Ding et al. 2010, eq. 11 and 12)."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.rand(len(x), n_components, generator=generator)
    atoms = x.new_zeros(n_components, x.shape[1])
    ridge = 1e-3 * torch.eye(n_components)
    for _ in range(n_iterations):
        atoms = torch.linalg.solve(z.T @ z + ridge, z.T @ x)
        towards, gram = x @ atoms.T, atoms @ atoms.T
        up = towards.clamp_min(0) + z @ (-gram).clamp_min(0)
        down = (-towards).clamp_min(0) + z @ gram.clamp_min(0)
        z = z * (up / down.clamp_min(1e-9)).sqrt()
    norms = torch.linalg.vector_norm(atoms, dim=1).clamp_min(1e-9)
    scatter = x.T @ x
    ridge = 1e-3 * scatter.diagonal().mean() * torch.eye(x.shape[1])
    reads = torch.linalg.solve(scatter + ridge, x.T @ (z * norms)).T
    return reads, atoms / norms[:, None]
