"""An image source of random pictures of 8 × 8."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from datamodules.images.base import BrokenImage, Found, ImageItem, ImageSource
from tests.fakes.backbone import SIDE


class TinyImages(ImageSource):
    """The first ``n_held_out`` of them are held out; loading the ``broken`` ones fails."""

    kind = "tiny"

    def __init__(
        self, n: int = 21, broken: Sequence[int] = (), on_error: str = "raise", n_held_out: int = 4
    ) -> None:
        super().__init__(n_images=None, val_fraction=0.0, on_error=on_error, seed=0)
        self.name, self.class_names = "tiny", ["even", "odd"]
        self.broken = {f"tiny/{i:03d}" for i in broken}
        self._settle(
            Found(f"tiny/{i:03d}", "val" if i < n_held_out else "train", i % 2, f"{i}.png", 1)
            for i in range(n)
        )

    def load(self, item: ImageItem) -> Image.Image:
        if item.image_id in self.broken:
            raise BrokenImage(item.image_id, "it is cut short")
        seed = int(item.image_id.rpartition("/")[2])
        pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        return Image.fromarray(pixels)

    def options(self) -> dict[str, Any]:
        return {}
