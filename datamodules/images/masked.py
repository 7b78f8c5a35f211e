"""Images of another source with masks that are given in memory."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from datamodules.images.base import Found, ImageItem, ImageSource


class MaskedImages(ImageSource):
    """The images of ``source`` that have a mask, in its splits.

    Args:
        source: where the images come from.
        masks: image id → class per pixel at the image's size, 255 where there is none.
        class_names: what mask values index.

    Raises:
        ValueError: a mask of an image that the source does not have.
    """

    kind = "masked"

    def __init__(
        self,
        source: ImageSource,
        masks: Mapping[str, UInt8[np.ndarray, "h w"]],
        class_names: list[str],
    ) -> None:
        super().__init__(
            n_images=None, val_fraction=0.0, on_error=source.on_error, seed=source.seed
        )
        unknown = sorted(set(masks) - {item.image_id for item in source.items})
        if unknown:
            raise ValueError(f"masks names {unknown[0]!r}, which {source.name!r} does not have.")
        self.source, self.masks = source, dict(masks)
        self.name, self.class_names = source.name, list(class_names)
        self._settle(
            Found(item.image_id, item.split, None, item.path, masks[item.image_id].nbytes)
            for item in source.items
            if item.image_id in masks
        )

    def load(self, item: ImageItem) -> Image.Image:
        return self.source.load(item)

    def mask(self, item: ImageItem) -> UInt8[np.ndarray, "h w"]:
        """Index into ``class_names`` per pixel."""
        return self.masks[item.image_id]

    def options(self) -> dict[str, Any]:
        """Says what it is; masks in memory are rebuilt from nothing."""
        return {"source": self.source.spec(), "masks": self._digest()}

    def content(self) -> dict[str, Any]:
        """A digest of the masks."""
        return {"masks": self._digest(), "source": self.source.content()}

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for item in self.items:
            digest.update(self.masks[item.image_id].tobytes())
        return digest.hexdigest()
