"""Layer-wise relevance propagation through a transformer, as gradients of a model made locally linear.

Relevance under the basic rule of LRP is input × gradient once every non-linear factor counts as a
constant. Which factors do:

- attention: the pattern softmax(q·kᵀ); relevance flows through the values alone, and
- norms: the division by the standard deviation
  (Ali et al. 2022, XAI for Transformers, arXiv 2202.07304: rules AH and LN),
- activations x·g(x), such as GELU: the factor g(x), and
- products of two streams: half of the relevance to each
  (Achtibat et al. 2024, AttnLRP, arXiv 2402.05602: identity and uniform rule).

Outputs keep their values up to rounding; gradients alone change. The rules act on torch's own
functions, so they hold for any model that is written with them.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

NEAR_ZERO = 1e-6
SLOPE_AT_ZERO = 0.5
"""Of GELU and SiLU."""


class ConservingGradients(TorchFunctionMode):
    """While open (in this thread), gradients follow the rules of this file."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        rule = RULES.get(func)
        return (
            func(*args, **(kwargs or {})) if rule is None else rule(func, *args, **(kwargs or {}))
        )


def _constant_pattern(func: Any, q: Tensor, k: Tensor, v: Tensor, *args: Any, **more: Any) -> Any:
    """Attention whose queries and keys are constants."""
    return func(q.detach(), k.detach(), v, *args, **more)


def _constant_output(func: Any, *args: Any, **more: Any) -> Any:
    return func(*args, **more).detach()


def _constant_deviation(
    _func: Any, x: Tensor, normalized_shape: Any, weight: Tensor | None = None,
    bias: Tensor | None = None, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """Layer norm."""
    axes = tuple(range(-len(normalized_shape), 0))
    centred = x - x.mean(axes, keepdim=True)
    deviation = (centred.square().mean(axes, keepdim=True) + eps).sqrt().detach()
    return _affine(centred / deviation, weight, bias)


def _constant_size(
    _func: Any, x: Tensor, normalized_shape: Any, weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:  # fmt: skip
    """Root-mean-square norm."""
    axes = tuple(range(-len(normalized_shape), 0))
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    size = (x.square().mean(axes, keepdim=True) + eps).sqrt().detach()
    return _affine(x / size, weight, None)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _constant_factor(func: Any, x: Tensor, *args: Any, **more: Any) -> Tensor:
    """An activation f(x) as x · (f(x) / x)."""
    x_or_one = torch.where(x.abs() > NEAR_ZERO, x, 1.0).detach()
    out = func(x.detach(), *args, **{key: value for key, value in more.items() if key != "inplace"})
    factor = torch.where(x.abs() > NEAR_ZERO, out / x_or_one, SLOPE_AT_ZERO)
    return x * factor


def _half_each(func: Any, a: Any, b: Any, *args: Any, **more: Any) -> Any:
    """A product of two streams."""
    both = all(isinstance(x, Tensor) and x.requires_grad for x in (a, b))
    if not both or args or more:
        return func(a, b, *args, **more)
    return (func(a, b.detach()) + func(a.detach(), b)) / 2


RULES: dict[Any, Callable[..., Any]] = {
    F.scaled_dot_product_attention: _constant_pattern,
    F.multi_head_attention_forward: _constant_pattern,
    F.softmax: _constant_output,
    torch.softmax: _constant_output,
    Tensor.softmax: _constant_output,
    torch.sigmoid: _constant_output,
    Tensor.sigmoid: _constant_output,
    F.layer_norm: _constant_deviation,
    F.rms_norm: _constant_size,
    F.gelu: _constant_factor,
    F.silu: _constant_factor,
    torch.mul: _half_each,
    Tensor.mul: _half_each,
    Tensor.__mul__: _half_each,
}
"""What each of torch's functions does instead."""
