"""Encoder products that autocast narrows, with float32 results: what is chosen must not tie.

Shapes: `b` tokens, `d` d_model, `s` d_sae.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def narrowed(tensor: Tensor) -> Tensor:
    """The tensor in the dtype that autocast takes products in, where it is on."""
    device = tensor.device.type
    if not torch.is_autocast_enabled(device):
        return tensor
    return tensor.to(torch.get_autocast_dtype(device))


def wide_product(x: Float[Tensor, "b d"], W: Float[Tensor, "s d"]) -> Float[Tensor, "b s"]:
    """x·Wᵀ in float32, of narrower factors.

    Rounded to bfloat16 many of the largest pre-activations would tie, and which of them is chosen
    would depend on the path.
    """
    if x.is_cuda:
        return torch.mm(x, W.T, out_dtype=torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        return x.float() @ W.float().T


class _WideProduct(torch.autograd.Function):
    """``wide_product`` of narrowed factors; the products of its gradient are narrow, too."""

    @staticmethod
    def forward(ctx: Any, x_bd: Tensor, W: Tensor) -> Tensor:
        ctx.dtypes = x_bd.dtype, W.dtype
        x_bd, W = narrowed(x_bd), narrowed(W)
        ctx.save_for_backward(x_bd, W)
        return wide_product(x_bd, W)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_bd, W = ctx.saved_tensors
        grad = grads[0].to(W.dtype)
        return (grad @ W).to(ctx.dtypes[0]), (grad.T @ x_bd).to(ctx.dtypes[1])


def wide_pre_activations(
    x_bd: Float[Tensor, "b d"], W_enc: Float[Tensor, "s d"], b_enc: Float[Tensor, " s"]
) -> Float[Tensor, "b s"]:
    """x·W_encᵀ + b_enc with gradients; where autocast narrows the factors, in float32 all the same."""
    if torch.is_autocast_enabled(x_bd.device.type):
        return _WideProduct.apply(x_bd, W_enc) + b_enc
    return F.linear(x_bd, W_enc, b_enc)
