"""Per-token normalisers that other libraries put before the encoder, undone on the decoder's output.

Shapes: `d` d_model; `*n` any leading axes.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

TOKEN_NORMS = ("none", "layer_norm", "sqrt_d")

EPSILON = 1e-5
"""Added to the standard deviation by ``layer_norm``."""


class TokenUnits(NamedTuple):
    """x = length·x_normalised + shift, token by token."""

    shift: Float[Tensor, "*n 1"]
    length: Float[Tensor, "*n 1"]


def given(x: Tensor | None, by: str) -> Tensor:
    """x as it is; raises ValueError where what a dictionary has asks for it and it is None."""
    if x is None:
        raise ValueError(f"x, the tokens, must be given to a dictionary with {by}.")
    return x


def token_units(
    x: Float[Tensor, "*n d"] | None, token_norm: str, dtype: torch.dtype
) -> TokenUnits | None:
    """What a normaliser takes from each token; None for ``none``.

    - layer_norm: the mean over dimensions, and their standard deviation (n − 1) plus ``EPSILON``.
    - sqrt_d: no shift, and the L2 norm over √d.
    """
    if token_norm == "none":
        return None
    x = given(x, token_norm).to(dtype)
    if token_norm == "layer_norm":
        return TokenUnits(x.mean(-1, keepdim=True), x.std(-1, keepdim=True) + EPSILON)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True) / x.shape[-1] ** 0.5
    return TokenUnits(torch.zeros_like(length), length)
