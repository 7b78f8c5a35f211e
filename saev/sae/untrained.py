"""The null model of a dictionary: random atoms, the same shape, sparsity and normalisation.

Shapes: `n` tokens, `d` d_model.
"""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saev.sae.initialize import best_gain, latents_per_token, some_normal


def untrained_like(sae: Any, seed: int, acts: Float[Tensor, "n d"] | None) -> Any:
    """See ``SparseAutoencoder.untrained``, whose class this file must not import."""
    acts = some_normal(sae, acts)
    k = latents_per_token(sae, acts)
    cfg = sae.cfg if k is None else replace(sae.cfg, activation="topk", k=k)
    fresh = type(sae)(cfg, torch.Generator().manual_seed(seed)).requires_grad_(False)
    fresh = fresh.to(sae.W_enc.device, sae.W_enc.dtype).eval()
    kept = sae.extras if cfg.activation == sae.cfg.activation else ()
    for name in ("mean", "scale", *(["W_skip"] if cfg.skip else []), *kept):
        getattr(fresh, name).copy_(getattr(sae, name))
    fresh.W_enc.mul_(best_gain(fresh, acts))
    return fresh
