"""AuxK: share of the residual's variance that the top dead latents leave unexplained (0 is best).

Shapes: `b` tokens, `d` d_model, `n` candidate latents.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def default_k_aux(d_model: int) -> int:
    """The power of two nearest to d_model / 2 (Gao et al. 2024, A.2)."""
    return 2 ** max(0, round(math.log2(d_model / 2)))


def auxk(
    x: Float[Tensor, "b d"],
    error: Float[Tensor, "b d"],
    W_enc: Float[Tensor, "n d"],
    b_enc: Float[Tensor, " n"],
    W_dec: Float[Tensor, "n d"],
    b_dec: Float[Tensor, " d"],
    dead: Bool[Tensor, " n"],
    k_aux: int,
    variation: Float[Tensor, ""] | None = None,
) -> Float[Tensor, ""]:
    """Share of the residual's variance that the top dead latents leave unexplained; 0 is best.

    ‖e − ê‖² / ‖e − mean_b e‖² with both sums over the whole batch, e = x − x̂ without gradient,
    ê = ẑ·W_dec without bias, ẑ the ReLU of the k_aux largest pre-activations among the dead. 0
    where none is dead or the error does not vary. Source: Gao et al. 2024 (arXiv 2406.04093), A.2;
    a ratio per batch rather than per token, which would starve rare tokens with large errors.

    The gradient goes straight through the ReLU (as if its slope were 1 below 0 too). Otherwise a
    latent whose bias has sunk below all inputs would get no gradient at all: of latents started
    with a bias of −10, none came back that way, and nearly all of them come back this way.

    Args:
        x: inputs in normalised units.
        error: x − x̂; its gradient is not followed.
        W_enc, b_enc, W_dec: rows of the candidate latents, which include all dead ones.
        dead: which candidates are dead; the others take no part.
        variation: the denominator, where ``error`` is only a part of the batch.
    """
    target = error.detach()
    pre_bn = F.linear(x - b_dec, W_enc, b_enc)
    chosen_bn = keep_largest(pre_bn, dead, k_aux)
    below_bn = chosen_bn.clamp(max=0)
    z_bn = chosen_bn.relu() + (below_bn - below_bn.detach())
    e_hat = (z_bn @ W_dec).to(target.dtype)
    if variation is None:
        variation = (target - target.mean(0)).square().sum()
    # A quotient by 0 would leave nan in the gradient even where its value is not taken.
    ratio = (target - e_hat).square().sum() / torch.where(variation > 0, variation, 1.0)
    return torch.where(dead.any() & (variation > 0), ratio, 0.0)


def keep_largest(
    pre: Float[Tensor, "b n"], allowed: Bool[Tensor, " n"], k: int
) -> Float[Tensor, "b n"]:
    """The k largest entries of each row among the allowed columns, 0 elsewhere."""
    if k >= pre.shape[1]:
        return torch.where(allowed, pre, 0.0)
    top = pre.detach().masked_fill(~allowed, float("-inf")).topk(k, dim=-1, sorted=False).indices
    chosen = torch.zeros_like(pre, dtype=torch.bool).scatter(-1, top, True)
    return torch.where(chosen & allowed, pre, 0.0)
