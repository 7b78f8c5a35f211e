"""The untrained dictionary that stands beside a trained one."""

import torch

from datamodules.images import ImageSource
from saev.backbones import Backbone
from saev.codes.code_pass import tokens_of
from saev.codes.images import ImageList
from saev.sae import SparseAutoencoder

FITTED_TOKENS = 2048
"""At least so many where images are many: for one gain and one number of latents."""
FEWEST_IMAGES, MOST_IMAGES = 16, 128
"""So that the tokens are of many images, and one token an image does not take a pass over them all."""


@torch.no_grad()
def untrained_control(
    sae: SparseAutoencoder, backbone: Backbone, source: ImageSource, seed: int
) -> SparseAutoencoder:
    """``sae.untrained(seed)``, its gain and L0 fitted on tokens of a few training images.

    Where the source has no training images, on a few of the others.
    """
    assert sae.cfg.tokens is not None
    n_tokens = len(backbone.token_indices(sae.cfg.tokens["which"]))
    items = source.split("train") or source.items
    images = ImageList({source.name: source}, [(source.name, item) for item in items])
    n_images = min(MOST_IMAGES, max(FEWEST_IMAGES, FITTED_TOKENS // n_tokens))
    return sae.untrained(seed, tokens_of(backbone, sae, images, n_images, seed))
