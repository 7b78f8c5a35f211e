"""The untrained dictionary: as sparse as its original, with codes of the best length.

Thresholds and gates mean nothing for other atoms, so each token keeps its largest codes, as many as
the original has in the mean. Random atoms overlap, and the sum of projections on many of them is too
long: one factor on all codes makes the squared error least.
Shapes: `n` tokens, `d` d_model, `s` d_sae.
"""

from math import ceil
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from saev.sae.config import SAEConfig

GAIN_TOKENS = 2048
"""Activations that the gain is fitted on: one number needs no more."""
GAIN_CODES = 2**23
"""Codes held at once meanwhile: 32 MB."""


@runtime_checkable
class EncodesAndWrites(Protocol):
    """What is needed of a dictionary."""

    @property
    def cfg(self) -> SAEConfig: ...
    @property
    def W_enc(self) -> Tensor: ...
    @property
    def W_dec(self) -> Tensor: ...
    @property
    def b_dec(self) -> Tensor: ...
    def encode(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n s"]: ...
    def normalize(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]: ...
    def is_normal(self, x: Float[Tensor, "*n d"]) -> Bool[Tensor, "*n"]: ...


def latents_per_token(
    sae: EncodesAndWrites, acts: Float[Tensor, "n d"] | None = None
) -> int | None:
    """How many codes of a token are positive: k for ``topk``, else the rounded mean over ``acts``.

    Without activations ⌈cfg.k⌉, which may be None.
    """
    k = sae.cfg.k
    if sae.cfg.activation == "topk" or acts is None or len(acts) == 0:
        return None if k is None else ceil(k)
    n_positive = sum(int((sae.encode(x) > 0).sum()) for x in _in_parts(sae, acts))
    return max(1, round(n_positive / len(acts)))


def some_normal(sae: EncodesAndWrites, acts: Float[Tensor, "n d"]) -> Float[Tensor, "m d"]:
    """About ``GAIN_TOKENS`` of the normal ones, evenly spaced."""
    normal = acts[sae.is_normal(acts)].to(sae.W_enc.device)
    return normal[:: max(1, len(normal) // GAIN_TOKENS)]


def best_gain(sae: EncodesAndWrites, acts: Float[Tensor, "n d"]) -> float:
    """The factor on all codes with the least squared error on activations.

    ⟨x̄ − b_dec, z·W_dec⟩ / ‖z·W_dec‖², both summed over them; 1 where nothing fires.
    """
    along = power = 0.0
    for x in _in_parts(sae, acts):
        written = sae.encode(x) @ sae.W_dec
        along += float((written * (sae.normalize(x) - sae.b_dec)).sum())
        power += float(written.square().sum())
    return along / power if power > 0 else 1.0


def _in_parts(sae: EncodesAndWrites, acts: Float[Tensor, "n d"]) -> tuple[Tensor, ...]:
    return acts.split(max(1, GAIN_CODES // sae.cfg.d_sae))
