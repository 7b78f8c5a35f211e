"""Activation functions but ReLU and TopK (``sparse.top_k``): codes of each token on its own.

Trained here: ``jump_relu``, ``batch_topk``, ``gated``. Only read, from dictionaries of others:
``signed_topk``, ``group_max``.

Shapes: `s` d_sae; `*n` any leading axes.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def activation_of(sae: Any) -> Callable[[Tensor], Tensor]:
    """The activation of a dictionary, whose class this file must not import."""
    k = int(sae.cfg.k or 0)
    match sae.cfg.activation:
        case "jump_relu" | "batch_topk":
            return lambda pre: above(pre, sae.threshold)
        case "gated":
            return lambda pre: gated(pre, sae.b_enc, sae.r_mag, sae.b_mag)
        case "group_max":
            return lambda pre: group_max(pre, k)
        case _:
            return lambda pre: signed_top_k(pre, k)


def signed_top_k(pre: Float[Tensor, "*n s"], k: int) -> Float[Tensor, "*n s"]:
    """pre at the k largest entries of each token, negative where fewer than k are positive; else 0."""
    at = pre.topk(k, dim=-1, sorted=False).indices
    return torch.zeros_like(pre).scatter_(-1, at, pre.gather(-1, at))


def group_max(pre: Float[Tensor, "*n s"], k: int) -> Float[Tensor, "*n s"]:
    """max(pre, 0) at the largest entry of each of k groups of neighbouring latents, 0 elsewhere."""
    groups = pre.unflatten(-1, (k, -1))
    at = groups.argmax(-1, keepdim=True)
    chosen = torch.zeros_like(groups).scatter_(-1, at, groups.gather(-1, at).relu())
    return chosen.flatten(-2)


def above(pre: Float[Tensor, "*n s"], threshold: Float[Tensor, "*t"]) -> Float[Tensor, "*n s"]:
    """pre where it is larger than max(θ, 0), else 0; θ of each latent, or one.

    Of each latent: JumpReLU (Rajamanoharan et al. 2024, arXiv 2407.14435, eq. 4; θ itself is the
    parameter). One measured θ: BatchTopK, so that no token depends on the others of its batch (Bussmann
    et al. 2024, arXiv 2412.06410, sec. 3).
    """
    return torch.where(pre > threshold.clamp_min(0), pre, 0.0)


def gated(
    pre: Float[Tensor, "*n s"],
    b_gate: Float[Tensor, " s"],
    r_mag: Float[Tensor, " s"],
    b_mag: Float[Tensor, " s"],
) -> Float[Tensor, "*n s"]:
    """max(exp(r_mag)·(pre − b_gate) + b_mag, 0) where pre > 0, else 0; ``pre`` holds the gate's bias.

    Source: Rajamanoharan et al. 2024 (arXiv 2404.16014), eq. 6 and 7.
    """
    return torch.where(pre > 0, (r_mag.exp() * (pre - b_gate) + b_mag).relu(), 0.0)
