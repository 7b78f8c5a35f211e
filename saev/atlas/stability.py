"""Stability over seeds: which atoms come back, next to atoms that no training made alike.

Suffixes: s latents, d width, n tokens.
"""

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saev.errors import UserError
from saev.interop import open_sae
from saev.metrics.geometry import matched_cosine, random_atoms
from saev.sae import SparseAutoencoder

if TYPE_CHECKING:
    import pandas as pd

NULLS = ("isotropic", "covariance", "tokens")
"""Two sets of random directions, of random directions with the covariance of the activations, and of
activations. Data fill a few directions, so only the first is what chance alone gives on a sphere."""
TOKENS_PER_LATENT = 4
"""Of the pool that the last two nulls are drawn from, in two halves of different images."""
LEVELS = (0.5, 0.9)
MAX_MATCHED = 8192
"""Latents that one-to-one matching takes minutes for; its time grows with their cube."""


class Stability(NamedTuple):
    """How much of a dictionary other seeds find again."""

    cosine_s: Float[np.ndarray, " s"]
    """Of every atom with its match, mean over the other dictionaries."""
    table: "pd.DataFrame"
    """A row per other dictionary, then per null: mean cosine, shares of atoms above 0.5 and 0.9."""
    metrics: dict[str, float]


def pool_images(sae: SparseAutoencoder, n_tokens: int) -> int:
    """Images whose tokens, ``n_tokens`` each, are enough for the nulls."""
    return ceil(TOKENS_PER_LATENT * sae.cfg.d_sae / n_tokens)


def stability(
    sae: SparseAutoencoder, others: Sequence[str], tokens_nd: Float[Tensor, "n d"], seed: int = 0
) -> Stability:
    """Cosine of every atom with its one-to-one match in dictionaries of other seeds, beside ``NULLS``.

    Args:
        others: folders of the same training with other seeds.
        tokens_nd: activations that the dictionary was made for, image by image.

    Raises:
        UserError: a dictionary of another shape, or too many atoms to match one to one.
    """
    import pandas as pd

    atoms = sae.W_dec.detach().float().cpu()
    if len(atoms) > MAX_MATCHED:
        raise UserError(
            f"atlas.seeds matches atoms one to one, which {len(atoms):,} are too many for (at most "
            f"{MAX_MATCHED:,}); compare them with saev.compare"
        )
    found = {name: matched_cosine(atoms, _other(name, atoms))[0] for name in others}
    nulls = {kind: _null_cosine(kind, tokens_nd, len(atoms), seed) for kind in NULLS}
    each = torch.stack(list(found.values())).mean(0).numpy()
    rows = [_row(name, False, one) for name, one in found.items()]
    rows += [_row(kind, True, one) for kind, one in nulls.items()]
    table = pd.DataFrame(rows)
    metrics = {"latents/stability": float(each.mean())} | {
        f"latents/stability_null/{kind}": float(one.mean()) for kind, one in nulls.items()
    }
    return Stability(each, table, metrics)


def _other(name: str, atoms: Float[Tensor, "s d"]) -> Float[Tensor, "s d"]:
    other = open_sae(name).W_dec.detach().float().cpu()
    if other.shape != atoms.shape:
        raise UserError(
            f"atlas.seeds: {name} has atoms of shape {tuple(other.shape)}, the dictionary "
            f"{tuple(atoms.shape)}; give other seeds of the same training"
        )
    return other


def _row(name: str, is_null: bool, cosine_s: Float[Tensor, " s"]) -> dict[str, object]:
    shares = {f"above_{level}": _share(cosine_s, level) for level in LEVELS}
    return {"dictionary": name, "is_null": is_null, "mean": float(cosine_s.mean()), **shares}


def _share(cosine_s: Float[Tensor, " s"], level: float) -> float:
    known = not cosine_s.isnan().any()
    return float((cosine_s > level).float().mean()) if known else float("nan")


def _null_cosine(
    kind: str, tokens_nd: Float[Tensor, "n d"], n_atoms: int, seed: int
) -> Float[Tensor, " s"]:
    """Cosines of two matched sets of atoms that share nothing but what ``kind`` says."""
    width = tokens_nd.shape[1]
    one, two = (random_atoms(n_atoms, width, seed=2 * seed + i) for i in (0, 1))
    if kind != "isotropic":
        centred_nd = tokens_nd.float() - tokens_nd.float().mean(0)
        halves = centred_nd.chunk(2)
        if kind == "tokens" and min(len(half) for half in halves) < n_atoms:
            return torch.full((n_atoms,), torch.nan)
        if kind == "tokens":
            generator = torch.Generator().manual_seed(seed)
            one, two = (h[torch.randperm(len(h), generator=generator)[:n_atoms]] for h in halves)
        else:
            values, vectors = torch.linalg.eigh(centred_nd.T @ centred_nd / len(centred_nd))
            spread = vectors * values.clamp_min(0).sqrt()
            one, two = one @ spread.T, two @ spread.T
    return matched_cosine(one, two)[0]
