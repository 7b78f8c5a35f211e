"""Other readings of the same activations, for every metric to stand beside.

Suffixes: b images, p tokens, d width, s units.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from saev.sae import SparseAutoencoder

Encoder = Callable[[Tensor], Tensor]
"""Raw activations (…, d) → codes (…, s), none of them negative."""


class Directions(nn.Module):
    """Both halves of the projection on fixed directions: relu(±(x − mean)·D), 2·s units."""

    mean_d: Tensor
    directions_sd: Tensor

    def __init__(self, directions_sd: Float[Tensor, "s d"], mean_d: Float[Tensor, " d"]) -> None:
        super().__init__()
        self.register_buffer("directions_sd", directions_sd)
        self.register_buffer("mean_d", mean_d)

    @property
    def n_latents(self) -> int:
        return 2 * len(self.directions_sd)

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n s2"]:
        projected = F.linear(x.float() - self.mean_d, self.directions_sd)
        return torch.cat([projected, -projected], dim=-1).relu()


def baselines(
    sae: SparseAutoencoder, sample_nd: Float[Tensor, "n d"], seed: int = 0
) -> dict[str, tuple[int, Encoder]]:
    """Number of units and encoder by name.

    - ``untrained``: a fresh dictionary of the same shape and activation;
    - ``raw``: the dimensions of the activations, both signs;
    - ``pca``: principal components of ``sample_nd``, both signs;
    - ``random``: as many random orthogonal directions, both signs.
    """
    width = sae.cfg.d_model
    mean = sample_nd.float().mean(0)
    components = torch.linalg.svd(sample_nd.float() - mean, full_matrices=False).Vh
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q.to(mean)
    found: dict[str, tuple[int, Encoder]] = {
        "untrained": (sae.cfg.d_sae, sae.untrained(seed).encode)
    }
    eye = torch.eye(width, device=mean.device)
    for name, directions in (("raw", eye), ("pca", components), ("random", rotation)):
        encoder = Directions(directions, mean)
        found[name] = (encoder.n_latents, encoder)
    return found
