"""What the rest of the model makes of a latent: push it everywhere and read which columns rise.

Suffixes: b images, t tokens, d width, s latents, v columns of a head.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.progress import progress_bar, progress_bars
from saev.backbones import Backbone
from saev.backbones.base import BackboneOutput
from saev.sae import SparseAutoencoder

Readout = Callable[[BackboneOutput], Tensor]


class Pushed(NamedTuple):
    """Activations of a few images, ready to be pushed."""

    acts_btd: Float[Tensor, "b t d"]
    normal_bt: Float[Tensor, "b t"]
    """1 at the tokens that are pushed: those of the dictionary that it answers for."""
    clean_bv: Float[Tensor, "b v"]
    """What the read-out says without a push."""


@torch.no_grad()
def prepare(
    pixels_b3hw: Float[Tensor, "b 3 h w"],
    sae: SparseAutoencoder,
    backbone: Backbone,
    readout: Readout,
) -> Pushed:
    """The images up to the layer of the dictionary, computed once for all pushes."""
    assert sae.cfg.layer is not None and sae.cfg.tokens is not None
    acts_btd = backbone.tap(pixels_b3hw, [sae.cfg.layer])[sae.cfg.layer]
    positions = backbone.token_indices(sae.cfg.tokens["which"]).to(acts_btd.device)
    normal_bt = torch.zeros(acts_btd.shape[:2], device=acts_btd.device)
    normal_bt[:, positions] = sae.is_normal(acts_btd[:, positions].float()).float()
    clean = readout(backbone.resume(acts_btd, sae.cfg.layer))
    return Pushed(acts_btd, normal_bt, clean.float())


@torch.no_grad()
def push_effects(
    pushed: Pushed,
    shifts_sd: Float[Tensor, "s d"],
    layer: int,
    backbone: Backbone,
    readout: Readout,
    batch_size: int = 64,
    description: str = "pushing latents",
) -> Float[Tensor, "s v"]:
    """Mean change of every column when each shift is added at all normal tokens, on the CPU.

    ``shifts_sd`` are in raw units of the residual stream. Several latents share a forward pass.
    """
    n_images = len(pushed.acts_btd)
    per_pass = max(1, batch_size // n_images)
    rows = []
    with (
        progress_bars(len(shifts_sd) >= 64),
        progress_bar(description, len(shifts_sd), unit="latents") as advance,
    ):
        for block in shifts_sd.split(per_pass):
            moved = pushed.acts_btd[None] + pushed.normal_bt[None, ..., None] * block[:, None, None]
            values = readout(backbone.resume(moved.flatten(0, 1), layer)).float()
            change = values.view(len(block), n_images, -1) - pushed.clean_bv[None]
            rows.append(change.mean(1).cpu())
            advance(len(block))
    return torch.cat(rows)


def shifts_of(
    sae: SparseAutoencoder, latents: Tensor, strength: float, max_s: Float[Tensor, " s"]
) -> Float[Tensor, "s d"]:
    """strength × the latent's largest code × its atom, in raw units."""
    atoms = sae.W_dec.detach()[latents.to(sae.W_dec.device)]
    return strength * max_s.to(atoms)[:, None] * atoms / sae.scale


def random_shifts(shifts_sd: Float[Tensor, "s d"], n: int, seed: int) -> Float[Tensor, "n d"]:
    """Directions drawn on the sphere with the lengths of shifts picked at random: the null."""
    generator = torch.Generator().manual_seed(seed)
    picked = torch.randint(len(shifts_sd), (n,), generator=generator)
    lengths = shifts_sd.norm(dim=1)[picked.to(shifts_sd.device)]
    directions = torch.randn(n, shifts_sd.shape[1], generator=generator).to(shifts_sd)
    return torch.nn.functional.normalize(directions, dim=1) * lengths[:, None]
