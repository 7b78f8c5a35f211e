"""Procedural scenes as an image source: no files, no download, known concepts."""

import hashlib
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from datamodules.images.base import Found, ImageItem, ImageSource
from datamodules.scenes import SHAPES, Scene, draw_scene, sample_scene, scene_attributes


class ScenesImages(ImageSource):
    """The first `n_images` scenes of the endless set `seed`, drawn when they are loaded.

    The label is the main object's shape. Masks are 0 for background and 1 + shape elsewhere.

    Args:
        n_images: how many scenes there are.
        size: side in pixels.
        seed: of the set, and of which scenes are held out. Of set 0 the micro ViT was trained on
            the first 120,000.
        val_fraction: share held out.
        on_error: accepted for every source; scenes cannot be broken.

    Raises:
        ValueError: an argument outside what is allowed.
    """

    kind = "scenes"

    def __init__(
        self,
        n_images: int = 2500,
        size: int = 96,
        *,
        seed: int = 1,
        val_fraction: float = 0.2,
        on_error: str = "raise",
    ) -> None:
        if n_images is None:
            raise ValueError("n_images is null; scenes are endless, so say how many to draw")
        super().__init__(n_images=n_images, val_fraction=val_fraction, on_error=on_error, seed=seed)
        self.size = size
        self.name = "scenes"
        self.class_names = list(SHAPES)
        first = draw_scene(seed, 0, size)  # also checks size
        self._first_scene = hashlib.sha256(first.image.tobytes()).hexdigest()
        self._settle(
            Found(
                f"scenes-{seed}/{index:06d}",
                split=None,
                label=sample_scene(seed, index).objects[0].shape,
                path=None,
                n_bytes=first.image.nbytes,
            )
            for index in range(n_images)
        )

    def load(self, item: ImageItem) -> Image.Image:
        """Draws the scene."""
        return Image.fromarray(self.scene(item).image)

    def mask(self, item: ImageItem) -> UInt8[np.ndarray, "h w"]:
        """0 for background, 1 + index into `class_names` for objects."""
        return self.scene(item).semantic_mask

    def attributes(self, item: ImageItem) -> dict[str, str]:
        """Name of each ground-truth attribute's value, e.g. {"shape": "heart", …}."""
        return scene_attributes(sample_scene(self.seed, scene_index(item)))

    def scene(self, item: ImageItem) -> Scene:
        """The item drawn, with its objects and all its masks."""
        return draw_scene(self.seed, scene_index(item), self.size)

    def options(self) -> dict[str, Any]:
        return {"size": self.size}

    def content(self) -> dict[str, Any]:
        """Size and a digest of the first scene, which changes when the drawing does."""
        return {"size": self.size, "first_scene": self._first_scene}


def scene_index(item: ImageItem) -> int:
    """Its number in the endless set, which its id ends in."""
    return int(item.image_id.rpartition("/")[2])
