"""Dead latents: detected, brought back by a loss of their own (AuxK), or resampled.

Shapes: `b` tokens, `d` d_model, `s` d_sae, `n` candidate latents, or latents to replace.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from saev.sae.model import SparseAutoencoder
from saev.sae.products import narrowed

LARGE = 2**18
"""Weights of candidate latents beyond which their products take longer than what is around them."""


def advance_since_fired(
    since: Int[Tensor, " s"], last_firing: Int[Tensor, " s"], n_tokens: int
) -> Int[Tensor, " s"]:
    """Tokens seen since each latent last fired, after ``n_tokens`` more.

    Exact to the token, so the count does not depend on how the stream was cut into batches.

    Args:
        last_firing: position of the last firing among the new tokens, -1 for none.
    """
    return torch.where(last_firing >= 0, n_tokens - 1 - last_firing, since + n_tokens)


def dead_latents(since: Int[Tensor, " s"], dead_after_tokens: int) -> Bool[Tensor, " s"]:
    """Which latents have not fired on the last ``dead_after_tokens`` tokens."""
    return since >= dead_after_tokens


def default_k_aux(d_model: int) -> int:
    """The power of two nearest to d_model / 2 (Gao et al. 2024, A.2)."""
    return 2 ** max(0, round(math.log2(d_model / 2)))


def candidate_rows(W: Float[Tensor, "s d"], ids: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
    """Rows of weights, whose gradient is added to that of the others row by row where they are many: as a
    tensor it would be as large as all of the weights, and mostly 0."""
    return F.embedding(ids, W, sparse=W.is_leaf and len(ids) * W.shape[1] > LARGE)


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
    of = x, W_enc, b_enc, W_dec, b_dec, target, dead, k_aux
    squares = _Squares.apply(*of) if W_enc.numel() > LARGE else _squares(*of)
    if variation is None:
        variation = (target - target.mean(0)).square().sum()
    # A quotient by 0 would leave nan in the gradient even where its value is not taken.
    ratio = squares / torch.where(variation > 0, variation, 1.0)
    return torch.where(dead.any() & (variation > 0), ratio, 0.0)


def _squares(
    x: Tensor, W_enc: Tensor, b_enc: Tensor, W_dec: Tensor, b_dec: Tensor, target: Tensor,
    dead: Tensor, k_aux: int,
) -> Tensor:  # fmt: skip
    """‖e − ẑ·W_dec‖² over the batch."""
    pre = F.linear(x - b_dec, W_enc, b_enc)
    chosen = torch.where(largest_allowed(pre.detach(), dead, k_aux), pre, 0.0)
    below = chosen.clamp(max=0)
    z = chosen.relu() + (below - below.detach())
    return (target - (z @ W_dec).to(target.dtype)).square().sum()


class _Squares(torch.autograd.Function):
    """``_squares`` with five products in place of the six that autograd takes: the gradient of b_dec is
    summed over tokens before its product."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        W_dec: Tensor,
        b_dec: Tensor,
        target: Tensor,
        dead: Tensor,
        k_aux: int,
    ) -> Tensor:
        ctx.dtype = W_enc.dtype
        x, W_enc, b_enc, W_dec = map(narrowed, (x - b_dec, W_enc, b_enc, W_dec))
        pre = F.linear(x, W_enc, b_enc)
        chosen = largest_allowed(pre, dead, k_aux)
        z = torch.where(chosen, pre, 0.0).relu_()
        rest = (z @ W_dec).to(target.dtype) - target
        ctx.save_for_backward(x, W_enc, W_dec, chosen, z, rest)
        return rest.square().sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, W_enc, W_dec, chosen, z, rest = ctx.saved_tensors
        grad = (2 * grads[0] * rest).to(z.dtype)
        grad_pre = torch.where(chosen, grad @ W_dec.T, 0.0)
        grad_b = grad_pre.sum(0)
        found = (
            grad_pre @ W_enc if ctx.needs_input_grad[0] else None,
            grad_pre.T @ x,
            grad_b,
            z.T @ grad,
            -(grad_b @ W_enc),
        )
        return *(None if one is None else one.to(ctx.dtype) for one in found), None, None, None


def largest_allowed(
    pre: Float[Tensor, "b n"], allowed: Bool[Tensor, " n"], k: int
) -> Bool[Tensor, "b n"]:
    """Which are the k largest entries of each row among the allowed columns."""
    if k >= pre.shape[1]:
        return allowed.expand_as(pre)
    top = pre.masked_fill(~allowed, float("-inf")).topk(k, dim=-1, sorted=False).indices
    return torch.zeros_like(pre, dtype=torch.bool).scatter_(-1, top, True) & allowed


def draw_inputs(
    inputs: Float[Tensor, "p d"],
    losses: Float[Tensor, " p"],
    n: int,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n d"]:
    """n rows of a pool with probability proportional to the squared loss, without repeats if able.

    Source: Bricken et al. 2023, Towards Monosemanticity, "Neuron Resampling".
    """
    weights = losses.double().cpu().square()
    if not bool(weights.sum() > 0):
        weights = torch.ones_like(weights)
    n_possible = int((weights > 0).sum())
    chosen = torch.multinomial(weights, n, replacement=n > n_possible, generator=generator)
    return inputs[chosen.to(inputs.device)]


@torch.no_grad()
def resample_rows(
    sae: SparseAutoencoder,
    optimizer: torch.optim.Optimizer | None,
    ids: Int[Tensor, " n"],
    inputs: Float[Tensor, "n d"],
    alive: Bool[Tensor, " s"],
    encoder_scale: float,
) -> None:
    """Point the latents ``ids`` at ``inputs`` and forget their optimiser state, in place.

    The atom becomes the direction of x̄ − b_dec with the mean norm of the living atoms (1 unless they
    are free), the encoder row the same direction with ``encoder_scale`` times the mean norm of the
    living encoder rows, the bias 0, a threshold of its own the mean of the living ones'. Every state
    tensor shaped like its parameter (Adam's two moments) is zeroed in exactly these rows. Source:
    Bricken et al. 2023, "Neuron Resampling".

    Args:
        inputs: raw activations, one for each id.
        alive: whose atoms and encoder rows set the norms; all of them if none is alive.
    """
    directions = sae.normalize(inputs) - sae.b_dec
    norms = torch.linalg.vector_norm(directions, dim=1, keepdim=True)
    directions = directions / norms.clamp_min(1e-12)
    living = alive if bool(alive.any()) else torch.ones_like(alive)
    sae.W_dec[ids] = directions * mean_norm(sae.W_dec[living])
    sae.W_enc[ids] = directions * (encoder_scale * mean_norm(sae.W_enc[living]))
    sae.b_enc[ids] = 0.0
    extras = {name: p for name, p in sae.named_parameters() if name in sae.extras}
    for name, tensor in extras.items():
        tensor[ids] = tensor[living].mean() if name == "threshold" else 0.0
    if optimizer is None:
        return
    for parameter in (sae.W_enc, sae.b_enc, sae.W_dec, *extras.values()):
        for state in optimizer.state.get(parameter, {}).values():
            if isinstance(state, Tensor) and state.shape == parameter.shape:
                state[ids] = 0.0


def mean_norm(rows: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Mean L2 norm of the rows."""
    return torch.linalg.vector_norm(rows, dim=1).mean()
