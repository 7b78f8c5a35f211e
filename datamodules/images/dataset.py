"""Images of a source as model inputs, for a `DataLoader`; a broken image travels as its error."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.images.base import BrokenImage, ImageItem
from saev.errors import first_line


@runtime_checkable
class Loads(Protocol):
    """What loading needs: an `ImageSource`, or several seen as one."""

    def try_load(self, item: ImageItem) -> Image.Image | BrokenImage: ...
    def report_broken(self, item: ImageItem, error: BrokenImage) -> None: ...


class LoadedImage(NamedTuple):
    """One element of an `ImageDataset`."""

    image: Float[Tensor, "3 h w"] | None
    """None where the image is broken."""
    position: int
    """In the items that the data set was given."""
    item: ImageItem
    error: BrokenImage | None
    """Why there is no image."""


class ImageBatch(NamedTuple):
    """The good images of a batch, and the broken ones beside them."""

    images: Float[Tensor, "b 3 h w"]
    """Without a single good image: shape (0, 3, 0, 0)."""
    positions: list[int]
    """Of the good images, in the items that the data set was given."""
    items: list[ImageItem]
    """Of the good images."""
    broken: list[tuple[ImageItem, BrokenImage]]
    """For `ImageSource.report_broken`, which raises or lists them."""


class ImageDataset(Dataset[LoadedImage]):
    """Transformed images in the order of `items`.

    A worker process cannot raise a clear error nor add to the source's list, so broken images come
    back as errors; the consumer hands `ImageBatch.broken` to `ImageSource.report_broken`.
    """

    def __init__(
        self,
        source: Loads,
        items: Sequence[ImageItem],
        transform: Callable[[Image.Image], Tensor],
    ) -> None:
        self.source = source
        self.items = items
        self.transform = transform

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, position: int) -> LoadedImage:
        item = self.items[position]
        image = self.source.try_load(item)
        if isinstance(image, BrokenImage):
            return LoadedImage(None, position, item, image)
        try:
            return LoadedImage(self.transform(image), position, item, None)
        except (ValueError, OverflowError) as error:  # a size that the transform cannot bring about
            broken = BrokenImage(item.image_id, first_line(error))
            return LoadedImage(None, position, item, broken)

    @staticmethod
    def collate(samples: Sequence[LoadedImage]) -> ImageBatch:
        """Stacks the good images and lists the broken ones; the `collate_fn` of a `DataLoader`."""
        good = [sample for sample in samples if sample.image is not None]
        images = [sample.image for sample in good if sample.image is not None]
        return ImageBatch(
            images=torch.stack(images) if images else torch.empty(0, 3, 0, 0),
            positions=[sample.position for sample in good],
            items=[sample.item for sample in good],
            broken=[(sample.item, sample.error) for sample in samples if sample.error is not None],
        )
