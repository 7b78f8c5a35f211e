"""One latent at some tokens, as a function of images.

Suffixes: b images, p chosen tokens, d width.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saev.backbones import Backbone
from saev.sae import SparseAutoencoder


@dataclass(frozen=True)
class LatentProbe:
    """A latent of a dictionary, read at some tokens of a backbone."""

    sae: SparseAutoencoder
    backbone: Backbone
    latent: int
    layer: int
    positions: Int[Tensor, " p"]
    """On the token axis."""

    def pre_activations(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        """The latent's pre-activation, summed over the tokens; gradients reach the images.

        It is the code wherever the latent fires (for a gated dictionary: the magnitude), and smooth
        where it does not. The code itself is 0 there with slope 0, and TopK's choice makes it jump,
        so neither gradients nor their integral would say what raises it.
        """
        sae, latent = self.sae, self.latent
        x_bar_bpd = sae.normalize(self._chosen(images))
        row_d = sae.W_enc[latent]
        pre_bp = (x_bar_bpd - sae.input_shift) @ row_d + sae.b_enc[latent]
        if sae.cfg.activation == "gated":
            gain, shift = sae.r_mag[latent].exp(), sae.b_mag[latent]
            pre_bp = gain * (pre_bp - sae.b_enc[latent]) + shift
        return pre_bp.sum(1)

    @torch.no_grad()
    def codes(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b p"]:
        """The latent's code at each of the tokens; 0 where the token's norm is not normal."""
        x_bpd = self._chosen(images).to(self.sae.W_enc.dtype)
        codes_bp = self.sae.encode(x_bpd)[..., self.latent]
        return codes_bp * self.sae.is_normal(x_bpd)

    def _chosen(self, images: Tensor) -> Tensor:
        return self.backbone.tap(images, [self.layer])[self.layer][:, self.positions]
