"""The walk over images: loaded batch by batch, broken ones reported to their source."""

from collections.abc import Callable, Iterator, Sequence

from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.images.base import ImageItem
from datamodules.images.dataset import ImageBatch, ImageDataset, Loads
from datamodules.progress import progress_bar
from datamodules.workers import start_method

Transform = Callable[[Image.Image], Tensor]


def image_batches(
    source: Loads,
    items: Sequence[ImageItem],
    transform: Transform,
    *,
    batch_size: int,
    num_workers: int,
    description: str,
) -> Iterator[ImageBatch]:
    """The images in order, under a progress bar of this description.

    Broken ones are reported to the source, which raises or lists them, and left out; so is a batch
    of nothing else.
    """
    chunks = in_order(len(items), batch_size)
    with progress_bar(description, len(items)) as advance:
        for batch in loaded_batches(source, items, transform, chunks, num_workers=num_workers):
            if batch.items:
                yield batch
            advance(len(batch.items) + len(batch.broken))


def loaded_batches(
    source: Loads,
    items: Sequence[ImageItem],
    transform: Transform,
    chunks: Sequence[Sequence[int]],
    *,
    num_workers: int,
    pin_memory: bool = False,
) -> Iterator[ImageBatch]:
    """A batch for each chunk of positions in ``items``, its broken images reported to the source.

    A batch has as many images, good or broken, as its chunk has positions.
    """
    num_workers = num_workers if chunks else 0
    loader = DataLoader(
        ImageDataset(source, items, transform),
        batch_sampler=[list(chunk) for chunk in chunks],
        num_workers=num_workers,
        collate_fn=ImageDataset.collate,
        pin_memory=pin_memory,
        multiprocessing_context=start_method(num_workers),
    )
    batch: ImageBatch
    for batch in loader:
        for item, error in batch.broken:
            source.report_broken(item, error)
        yield batch


def in_order(n_items: int, batch_size: int) -> list[range]:
    """Positions 0 … n − 1 in chunks of ``batch_size``, the last one smaller."""
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1 image.")
    return [range(i, min(i + batch_size, n_items)) for i in range(0, n_items, batch_size)]
