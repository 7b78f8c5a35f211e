"""Dictionaries in the benchmark's table: the one in question, and those that learned nothing of it.

Suffixes: n tokens, d width, s latents.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.images import ImageSource
from saev.backbones import Backbone
from saev.codes.code_pass import tokens_of
from saev.codes.images import ImageList
from saev.editing.directions import covariance_directions
from saev.evaluation.baselines.methods import ABOUT, Contender
from saev.sae import SparseAutoencoder
from saev.sae.baselines import fit_baseline
from saev.sae.initialize import best_gain, some_normal

OWN, UNTRAINED, COVARIANCE = "sae", "untrained", "covariance"
FITTED = ("raw", "pca")


def benchmark_arms(
    sae: SparseAutoencoder, backbone: Backbone, source: ImageSource, pool_images: int, seed: int
) -> list[Contender]:
    """The dictionary, two random ones of its shape and sparsity, raw units, principal components.

    All but the first are fitted on training images; where the source has none, on the others.
    """
    items = [(source.name, item) for item in source.split("train") or source.items]
    images = ImageList({source.name: source}, items)
    pool = tokens_of(backbone, sae, images, pool_images, seed).to(sae.W_enc.device)
    random = {
        UNTRAINED: (
            sae.untrained(seed, pool),
            "random atoms in place of the trained ones, as many, as sparse, one gain on all codes",
        ),
        COVARIANCE: (
            shaped_like_data(sae, pool, seed),
            "random atoms drawn with the covariance of the activations, encoder = decoder transposed",
        ),
    }
    return [
        Contender(OWN, sae, backbone, False, f"this dictionary ({sae.cfg.activation})"),
        *(Contender(name, one, backbone, True, about) for name, (one, about) in random.items()),
        *(
            Contender(kind, fit_baseline(kind, sae, pool, seed), backbone, False, ABOUT[kind])
            for kind in FITTED
        ),
    ]


@torch.no_grad()
def shaped_like_data(
    like: SparseAutoencoder, pool: Float[Tensor, "n d"], seed: int
) -> SparseAutoencoder:
    """``fit_baseline("untrained", …)`` with atoms that lie where the activations vary."""
    shaped = fit_baseline("untrained", like, pool, seed)
    x_nd = like.normalize(pool[like.is_normal(pool)]).float().cpu()
    generator = torch.Generator().manual_seed(seed)
    atoms_sd = covariance_directions(shaped.cfg.d_sae, x_nd.T.cov(), generator)
    shaped.W_dec.copy_(atoms_sd)
    shaped.W_enc.copy_(atoms_sd)
    shaped.W_enc.mul_(best_gain(shaped, some_normal(shaped, pool)))
    return shaped
