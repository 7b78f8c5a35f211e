"""Our dictionaries in raw units, as other libraries keep them: mean and scale folded into the weights.

x̄ = s·(x − μ), so W_enc′ = s·W_enc, W_dec′ = W_dec/s, b_dec′ = μ + b_dec/s; thresholds and codes stay.
Shapes: `d` d_model, `s` d_sae.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from saev.sae import SparseAutoencoder

KEPT = (
    "backbone", "layer", "tokens", "manifest_id", "manifest_sha256", "images", "max_norm", "recipe",
)  # fmt: skip
"""Fields of ``SAEConfig`` that no other format has: they lie under ``saev`` of its metadata."""


class RawUnits(NamedTuple):
    """Weights for raw activations. The encoder reads x − b_dec, or x where ``subtract`` is false."""

    W_enc: Float[Tensor, "s d"]
    b_enc: Float[Tensor, " s"]
    W_dec: Float[Tensor, "s d"]
    b_dec: Float[Tensor, " d"]
    r_mag: Float[Tensor, " s"] | None
    b_mag: Float[Tensor, " s"] | None


@torch.no_grad()
def raw_units(sae: SparseAutoencoder, *, subtract: bool) -> RawUnits:
    """The weights, whatever way the dictionary itself treats b_dec; computed in float64."""
    s, mean = float(sae.scale), sae.mean.detach().double().cpu()
    W_enc, W_dec = (getattr(sae, n).detach().double().cpu() for n in ("W_enc", "W_dec"))
    b_enc, b_dec = (getattr(sae, n).detach().double().cpu() for n in ("b_enc", "b_dec"))
    raw_b_dec = mean + b_dec / s
    shift = raw_b_dec if sae.cfg.subtract_b_dec else mean  # what is subtracted from x now
    want = raw_b_dec if subtract else torch.zeros_like(mean)
    added = s * W_enc @ (want - shift)
    r_mag = b_mag = None
    if sae.cfg.activation == "gated":
        r_mag, b_mag = (getattr(sae, n).detach().double().cpu() for n in ("r_mag", "b_mag"))
        b_mag = b_mag + r_mag.exp() * added
    dtype = sae.W_enc.dtype
    found = (s * W_enc, b_enc + added, W_dec / s, raw_b_dec, r_mag, b_mag)
    return RawUnits(*(None if one is None else one.to(dtype).contiguous() for one in found))  # type: ignore[arg-type]


def kept_of(sae: SparseAutoencoder) -> dict[str, Any]:
    """What other formats cannot hold, JSON-able."""
    values = sae.cfg.to_dict()
    return {name: values[name] for name in KEPT if values.get(name) is not None}


def kept_in(held: Any) -> dict[str, Any]:
    """The same as our writers left it under ``saev`` of a mapping; empty where they did not."""
    kept = held.get("saev") if isinstance(held, dict) else None
    return {name: kept[name] for name in KEPT if name in kept} if isinstance(kept, dict) else {}


def hook_of(sae: SparseAutoencoder) -> tuple[str, str]:
    """Name of the model, and of the place in the words that other libraries use."""
    name = str((sae.cfg.backbone or {}).get("name", "unknown"))
    place = "unknown" if sae.cfg.layer is None else f"blocks.{sae.cfg.layer}.hook_resid_post"
    return name, place
