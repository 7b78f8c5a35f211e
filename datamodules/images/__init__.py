"""Image sources behind one contract.

base: the contract of an image source
folder: folders of images
segmentation: images with a class per pixel
webdataset: WebDataset image tars
torchvision_sets: data sets that torchvision downloads
scenes: the procedural scenes as a source
layout: how folders are laid out: roots, splits, files
selection: held-out images and limits, by seeded draws per image id
tars: image tars: where they are and what is in them
decode: bytes → upright RGB image or mask
dataset: images as model inputs for a DataLoader
"""

from datamodules.images.base import ImageItem, ImageSource
from datamodules.images.dataset import ImageBatch, ImageDataset, LoadedImage
from datamodules.images.decode import BrokenImage
from datamodules.images.folder import FolderImages
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
]
