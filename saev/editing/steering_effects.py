"""Effect of steering a latent on the model's logits: which columns rise when it is added everywhere.

Suffixes: b images, t tokens, p chosen tokens, d width, s latents, v columns of a head.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from datamodules.progress import progress_bar, progress_bars
from saev.backbones import Backbone
from saev.backbones.base import BackboneOutput
from saev.editing.tokens import add_shifts
from saev.sae import SparseAutoencoder

Readout = Callable[[BackboneOutput], Tensor]


class Unsteered(NamedTuple):
    """Activations of a few images at the tap, before any steering."""

    acts_btd: Float[Tensor, "b t d"]
    positions_p: Int[Tensor, " p"]
    """Tokens that the dictionary reads."""
    normal_bp: Bool[Tensor, "b p"]
    """Those of normal norm: they alone are steered."""
    clean_bv: Float[Tensor, "b v"]
    """What the read-out says without steering."""


@torch.no_grad()
def prepare(
    pixels_b3hw: Float[Tensor, "b 3 h w"],
    sae: SparseAutoencoder,
    backbone: Backbone,
    readout: Readout,
) -> Unsteered:
    """The images up to the layer of the dictionary, computed once for all latents."""
    assert sae.cfg.layer is not None and sae.cfg.tokens is not None
    acts_btd = backbone.tap(pixels_b3hw, [sae.cfg.layer])[sae.cfg.layer]
    positions = backbone.token_indices(sae.cfg.tokens["which"]).to(acts_btd.device)
    clean = readout(backbone.resume(acts_btd, sae.cfg.layer))
    return Unsteered(acts_btd, positions, sae.is_normal(acts_btd[:, positions]), clean.float())


@torch.no_grad()
def steer_effects(
    unsteered: Unsteered,
    shifts_sd: Float[Tensor, "s d"],
    layer: int,
    backbone: Backbone,
    readout: Readout,
    batch_size: int = 64,
    description: str = "steering latents",
) -> Float[Tensor, "s v"]:
    """Mean change of every column when each shift is added at all normal tokens, on the CPU.

    ``shifts_sd`` are in raw units of the residual stream. Several latents share a forward pass.
    """
    n_images = len(unsteered.acts_btd)
    per_pass = max(1, batch_size // n_images)
    rows = []
    with (
        progress_bars(len(shifts_sd) >= 64),
        progress_bar(description, len(shifts_sd), unit="latents") as advance,
    ):
        acts_btd, positions_p, normal_bp, clean_bv = unsteered
        for block in shifts_sd.split(per_pass):
            steered = add_shifts(acts_btd, positions_p, block, normal_bp)
            values = readout(backbone.resume(steered.flatten(0, 1), layer)).float()
            change = values.view(len(block), n_images, -1) - clean_bv[None]
            rows.append(change.mean(1).cpu())
            advance(len(block))
    return torch.cat(rows)


def shifts_of(
    sae: SparseAutoencoder,
    latents: Tensor,
    strength: float,
    max_s: Float[Tensor, " s"],
    x: Float[Tensor, "*n d"] | None = None,
) -> Float[Tensor, "s d"]:
    """strength × the latent's largest code × its atom, in raw units.

    Args:
        x: tokens; where the dictionary normalises each, their mean length turns units to raw ones.
    """
    atoms = sae.W_dec.detach()[latents.to(sae.W_dec.device)]
    shifts = strength * max_s.to(atoms)[:, None] * atoms / sae.scale
    units = sae.units_of(x)
    return shifts if units is None else shifts * units.length.mean()


def random_shifts(shifts_sd: Float[Tensor, "s d"], n: int, seed: int) -> Float[Tensor, "n d"]:
    """Directions drawn on the sphere with the lengths of shifts picked at random: the null."""
    generator = torch.Generator().manual_seed(seed)
    picked = torch.randint(len(shifts_sd), (n,), generator=generator)
    lengths = shifts_sd.norm(dim=1)[picked.to(shifts_sd.device)]
    directions = torch.randn(n, shifts_sd.shape[1], generator=generator).to(shifts_sd)
    return torch.nn.functional.normalize(directions, dim=1) * lengths[:, None]
