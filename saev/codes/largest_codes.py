"""The largest code of each latent on some images: the unit in which edits give their amounts.

Suffixes: b images, h w pixels, p chosen tokens, s latents.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from saev.backbones import Backbone
from saev.editing.tokens import Tokens, encode
from saev.sae import SparseAutoencoder


@torch.no_grad()
def largest_codes(
    sae: SparseAutoencoder,
    backbone: Backbone,
    layer: int,
    tokens: Tokens,
    batches: Iterable[Float[Tensor, "b 3 h w"]],
) -> Float[Tensor, " s"]:
    """Over the chosen tokens of normal norm of all images; 0 for a latent that never fires there."""
    device = sae.W_enc.device
    tokens, largest_s = tokens.to(device), torch.zeros(sae.cfg.d_sae, device=device)
    for pixels_b3hw in batches:
        acts_btd = backbone.tap(pixels_b3hw.to(device), [layer])[layer]
        encoded = encode(sae, tokens, acts_btd)
        z_bps = encoded.z * encoded.normal[..., None]
        largest_s = torch.maximum(largest_s, z_bps.amax((0, 1)).float())
    return largest_s
