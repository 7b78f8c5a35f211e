"""Image sources behind one contract.

base: the contract of an image source
folder: folders of images
segmentation: images with a class per pixel
webdataset: WebDataset image tars
torchvision_sets: data sets that torchvision downloads
scenes: the procedural scenes as a source
pasted: photographs with known textures and objects pasted into them
masked: another source's images with masks given in memory
layout: how folders are laid out: roots, splits, files
selection: held-out images and limits, by seeded draws per image id
tars: image tars: where they are and what is in them
decode: bytes → upright RGB image or mask
dataset: images as model inputs for a DataLoader
batches: the walk over images, broken ones reported
from_spec: the source that a dictionary's or head's config names
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from datamodules.images.base import BrokenImage as BrokenImage
from datamodules.images.base import ImageItem as ImageItem
from datamodules.images.base import ImageSource as ImageSource

if TYPE_CHECKING:
    from datamodules.images.batches import image_batches as image_batches
    from datamodules.images.dataset import ImageBatch as ImageBatch
    from datamodules.images.dataset import ImageDataset as ImageDataset
    from datamodules.images.dataset import LoadedImage as LoadedImage
    from datamodules.images.folder import FolderImages as FolderImages
    from datamodules.images.from_spec import source_from_spec as source_from_spec
    from datamodules.images.scenes import ScenesImages as ScenesImages
    from datamodules.images.segmentation import SegmentationImages as SegmentationImages
    from datamodules.images.webdataset import WebDatasetImages as WebDatasetImages

_HOMES = {
    "image_batches": "batches",
    "ImageBatch": "dataset",
    "ImageDataset": "dataset",
    "LoadedImage": "dataset",
    "FolderImages": "folder",
    "source_from_spec": "from_spec",
    "ScenesImages": "scenes",
    "SegmentationImages": "segmentation",
    "WebDatasetImages": "webdataset",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
