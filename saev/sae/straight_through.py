"""Straight-through gradients for JumpReLU thresholds.

Inside the window |pre − θ| < ε/2 of a threshold a jump is treated as a ramp of width ε; averaged
over tokens this estimates the derivative of the expected value (Rajamanoharan et al. 2024,
arXiv 2407.14435, sec. 4, eq. 11 and 12, rectangular kernel). Both functions take pre-activations,
never codes: half of the window lies below the threshold, where codes are 0 and say nothing.

Shapes: any leading axes, then `s` latents; thresholds have one entry a latent, or one for each
pre-activation.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def _window(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """K((pre − θ)/ε): 1 inside the window, 0 outside."""
    return ((pre - threshold).abs() < bandwidth / 2).to(pre.dtype)


def _to_threshold(grad: Tensor, threshold: Tensor) -> Tensor:
    return grad.sum_to_size(threshold.shape).to(threshold.dtype)


class _JumpReLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float, to_input: bool
    ) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth, ctx.to_input = bandwidth, to_input
        return torch.where(pre > threshold, pre, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        pre, threshold = ctx.saved_tensors
        jump = threshold / ctx.bandwidth * _window(pre, threshold, ctx.bandwidth) * grad
        grad_pre = torch.where(pre > threshold, grad, 0.0)
        if ctx.to_input:
            grad_pre = grad_pre + jump
        return grad_pre.to(pre.dtype), _to_threshold(-jump, threshold), None, None


class _Heaviside(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float, to_input: bool
    ) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth, ctx.to_input = bandwidth, to_input
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        pre, threshold = ctx.saved_tensors
        jump = _window(pre, threshold, ctx.bandwidth) / ctx.bandwidth * grad
        grad_pre = jump.to(pre.dtype) if ctx.to_input else None
        return grad_pre, _to_threshold(-jump, threshold), None, None


def jump_relu(
    pre: Float[Tensor, "*n s"],
    threshold: Float[Tensor, "*t s"],
    bandwidth: float | int,
    to_input: bool = False,
) -> Float[Tensor, "*n s"]:
    """pre where pre > max(θ, 0), else 0.

    Gradients: ∂/∂θ = −(θ/ε)·K((pre − θ)/ε), ∂/∂pre = 1[pre > θ].

    Args:
        bandwidth: ε, in the units of ``pre``.
        to_input: adds the jump's (θ/ε)·K to ∂/∂pre (Anthropic, January 2025 update).
    """
    return _JumpReLU.apply(pre, threshold.clamp_min(0), bandwidth, to_input)


def heaviside(
    pre: Float[Tensor, "*n s"],
    threshold: Float[Tensor, "*t s"],
    bandwidth: float | int,
    to_input: bool = False,
) -> Float[Tensor, "*n s"]:
    """1 where pre > max(θ, 0), else 0.

    Gradients: ∂/∂θ = −(1/ε)·K((pre − θ)/ε), and ∂/∂pre = 0 or with ``to_input`` the same with the
    other sign.
    """
    return _Heaviside.apply(pre, threshold.clamp_min(0), bandwidth, to_input)
