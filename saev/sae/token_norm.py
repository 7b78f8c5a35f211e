"""Per-token normalisers that other libraries put before the encoder, undone on the decoder's output.

Shapes: `d` d_model; `*n` any leading axes.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

EPSILON = 1e-5
"""Added by ``layer_norm`` to the standard deviation that it divides by, in SAELens and ViT-Prisma alike."""


class TokenUnits(NamedTuple):
    """Normalised is (x − shift)/divisor; back it is length·x + shift, token by token."""

    shift: Float[Tensor, "*n 1"]
    divisor: Float[Tensor, "*n 1"]
    length: Float[Tensor, "*n 1"]


def given(x: Tensor | None, by: str) -> Tensor:
    """x as it is; raises ValueError where what a dictionary has asks for it and it is None."""
    if x is None:
        raise ValueError(f"x, the tokens, must be given to a dictionary with {by}.")
    return x


def token_units(x: Float[Tensor, "*n d"] | None, token_norm: str, dtype: torch.dtype) -> TokenUnits:
    """What a normaliser takes from each token.

    - layer_norm: the mean over dimensions, and their standard deviation (n − 1), of which only the
      divisor has ``EPSILON`` added.
    - sqrt_d: no shift, and the L2 norm over √d.
    """
    x = given(x, token_norm).to(dtype)
    if token_norm == "layer_norm":
        spread = x.std(-1, keepdim=True)
        return TokenUnits(x.mean(-1, keepdim=True), spread + EPSILON, spread)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True) / x.shape[-1] ** 0.5
    return TokenUnits(torch.zeros_like(length), length, length)
