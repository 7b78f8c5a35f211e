"""Image sources behind one contract."""

from datamodules.images.base import ImageItem, ImageSource
from datamodules.images.batches import image_batches
from datamodules.images.dataset import ImageBatch, ImageDataset, LoadedImage
from datamodules.images.decode import BrokenImage
from datamodules.images.folder import FolderImages
from datamodules.images.from_spec import source_from_spec
from datamodules.images.scenes import ScenesImages
from datamodules.images.segmentation import SegmentationImages
from datamodules.images.webdataset import WebDatasetImages

__all__ = [
    "BrokenImage",
    "FolderImages",
    "ImageBatch",
    "ImageDataset",
    "ImageItem",
    "ImageSource",
    "LoadedImage",
    "ScenesImages",
    "SegmentationImages",
    "WebDatasetImages",
    "image_batches",
    "source_from_spec",
]
