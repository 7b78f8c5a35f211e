"""What a null model shares with a trained dictionary: how sparse its codes are, and how long.

Random atoms overlap, so that the sum of projections on many of them is too long; one factor on all
codes is fitted.

Shapes: `n` activations, `d` d_model.
"""

from math import ceil
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saev.sae.config import SAEConfig

FITTED_TOKENS = 2048
"""Activations that are looked at: two numbers need no more."""

FITTED_CODES = 2**23
"""Codes held at once meanwhile: 32 MB."""


@runtime_checkable
class Dictionary(Protocol):
    """What is asked of a ``SparseAutoencoder``."""

    cfg: SAEConfig

    @property
    def W_enc(self) -> Tensor: ...
    @property
    def W_dec(self) -> Tensor: ...
    @property
    def b_dec(self) -> Tensor: ...
    def encode(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n s"]: ...
    def normalize(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]: ...
    def is_normal(self, x: Float[Tensor, "n d"]) -> Bool[Tensor, " n"]: ...


def some_normal(sae: Dictionary, acts: Float[Tensor, "n d"] | None) -> Float[Tensor, "m d"] | None:
    """Evenly spaced rows among the normal ones, on the dictionary's device; None where there are none."""
    if acts is None:
        return None
    normal = acts[sae.is_normal(acts)].to(sae.W_enc.device)
    return normal[:: max(1, len(normal) // FITTED_TOKENS)] if len(normal) else None


def _in_parts(sae: Dictionary, acts: Float[Tensor, "n d"]) -> tuple[Tensor, ...]:
    return acts.split(max(1, FITTED_CODES // sae.cfg.d_sae))


@torch.no_grad()
def latents_per_token(sae: Dictionary, acts: Float[Tensor, "n d"] | None) -> int | None:
    """How many codes of a token are positive: k for ``topk``, else the rounded mean over ``acts``.

    Without activations ⌈k⌉, which may be None.
    """
    k = sae.cfg.k
    if sae.cfg.activation == "topk" or acts is None:
        return None if k is None else ceil(k)
    n_positive = sum(int((sae.encode(x) > 0).sum()) for x in _in_parts(sae, acts))
    return max(1, round(n_positive / len(acts)))


@torch.no_grad()
def best_gain(sae: Dictionary, acts: Float[Tensor, "n d"] | None) -> float:
    """The factor on all codes with the least squared error on activations.

    ⟨x̄ − b_dec, z·W_dec⟩ / ‖z·W_dec‖², both summed over them; 1 where nothing fires.
    """
    along = power = 0.0
    for x in _in_parts(sae, acts) if acts is not None else ():
        written = sae.encode(x) @ sae.W_dec
        along += float((written * (sae.normalize(x) - sae.b_dec)).sum())
        power += float(written.square().sum())
    return along / power if power > 0 else 1.0
