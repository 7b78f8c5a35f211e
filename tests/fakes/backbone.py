"""A backbone of a few numbers: a class token and 2 × 2 patches."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from saev.backbones.base import Backbone

WIDTH, SIDE = 6, 8


class TinyBackbone(Backbone):
    """Class token and 2 × 2 patches; block k multiplies by k + 1. ``on_tap`` sees every call."""

    def __init__(self, sha256: str = "ab" * 32, on_tap: Callable[[], None] = lambda: None) -> None:
        nn.Module.__init__(self)
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(3 * 16, WIDTH, generator=generator) / 4
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.family, self.name, self.layer = "tiny", "Tiny ViT/4", 1
        self.width, self.n_blocks, self.grid, self.n_prefix = WIDTH, 3, (2, 2), 1
        self.token_names = ["class", *["patch"] * 4]
        self.image_size = (SIDE, SIDE)
        self.weights = {"kind": "random", "source": "seed 0", "sha256": sha256}
        self.spec = {"family": "tiny", "name": self.name, "weights": "random", "layer": 1}
        self.transform_spec = {"size": [SIDE, SIDE]}
        self.transform = to_tensor  # type: ignore[assignment]
        self.on_tap = on_tap

    def tap(self, images: Tensor, layers: Sequence[int] | None = None) -> dict[int, Tensor]:
        self.on_tap()
        patches = images.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5)
        acts_bpd = patches.reshape(len(images), 4, 48) @ self.weight
        acts_btd = torch.cat([acts_bpd.mean(1, keepdim=True), acts_bpd], 1)
        return {layer: acts_btd * (layer + 1) for layer in layers or [self.layer]}


def to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255 - 0.5
