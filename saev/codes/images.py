"""Images of several sources as one list, and their pixels in batches.

Suffixes: b images, h w pixels.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from datamodules.images import BrokenImage, ImageItem, ImageSource
from datamodules.images.batches import in_order, loaded_batches
from saev.backbones import Backbone
from saev.backbones.transform import to_picture
from saev.errors import UserError


@dataclass(frozen=True)
class ImageList:
    """Images of one or more sources, in the order in which everything counts them."""

    sources: dict[str, ImageSource]
    entries: list[tuple[str, ImageItem]]
    """Name of the source and item; no two with one id."""

    @classmethod
    def of(cls, sources: Mapping[str, ImageSource], n_images: int | None) -> "ImageList":
        """All images of all sources; with a limit, evenly spaced ones.

        Raises:
            UserError: no images, or two sources share an image id.
        """
        entries = [(name, item) for name, source in sources.items() for item in source.items]
        if not entries:
            raise UserError("the image sources hold no images to describe latents with")
        if n_images is not None and n_images < len(entries):
            chosen = np.linspace(0, len(entries) - 1, n_images).round().astype(int)
            entries = [entries[index] for index in chosen]
        ids = [item.image_id for _, item in entries]
        if len(set(ids)) < len(ids):
            twice = next(image_id for image_id in ids if ids.count(image_id) > 1)
            raise UserError(f"the image {twice!r} is in two of the image sources; leave one out")
        return cls(dict(sources), entries)

    @property
    def ids(self) -> list[str]:
        return [item.image_id for _, item in self.entries]

    def of_source(self, name: str) -> tuple[int, list[ImageItem]]:
        """Position of the first image of a source, and its items; they stand together."""
        places = [index for index, (own, _) in enumerate(self.entries) if own == name]
        return (places[0] if places else 0), [self.entries[index][1] for index in places]

    @cached_property
    def _home(self) -> dict[str, str]:
        return {item.image_id: name for name, item in self.entries}

    def source_of(self, item: ImageItem) -> ImageSource:
        """The source that an item belongs to."""
        return self.sources[self._home[item.image_id]]

    def try_load(self, item: ImageItem) -> Image.Image | BrokenImage:
        """The image, or its error unraised, from the source it belongs to."""
        return self.source_of(item).try_load(item)

    def report_broken(self, item: ImageItem, error: BrokenImage) -> None:
        """To the source that it belongs to."""
        self.source_of(item).report_broken(item, error)

    def pixels(self, index: int, backbone: Backbone) -> Float[Tensor, "3 h w"] | None:
        """One image as the model takes it; None where it is broken."""
        name, item = self.entries[index]
        loaded = self.sources[name].load_or_skip(item)
        return None if loaded is None else backbone.transform(loaded)

    def picture(self, index: int, backbone: Backbone) -> UInt8[np.ndarray, "h w 3"]:
        """One image as the model sees it; grey where it is broken."""
        pixels = self.pixels(index, backbone)
        if pixels is None:
            return np.full((*backbone.image_size, 3), 128, np.uint8)
        return to_picture(pixels, backbone.mean, backbone.std)


def pixel_batches(
    images: ImageList,
    indices: Sequence[int],
    backbone: Backbone,
    batch_size: int,
    num_workers: int,
) -> Iterator[tuple[Float[Tensor, "b 3 h w"], Bool[Tensor, " b"]]]:
    """Pixels of images in the order given, and which of them are whole; broken ones are zeros."""
    items = [images.entries[index][1] for index in indices]
    chunks = in_order(len(items), batch_size)
    batches = loaded_batches(images, items, backbone.transform, chunks, num_workers=num_workers)
    for chunk, batch in zip(chunks, batches, strict=True):
        pixels = torch.zeros(len(chunk), 3, *backbone.image_size)
        whole = torch.zeros(len(chunk), dtype=torch.bool)
        if batch.items:
            places = [position - chunk.start for position in batch.positions]
            pixels[places] = batch.images
            whole[places] = True
        yield pixels, whole
