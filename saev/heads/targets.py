"""Targets of a head: the class of an image, or of each of its patches.

Shape legend: r rows of an image, h w pixels.
"""

from __future__ import annotations

import torch
from jaxtyping import Int64
from torch import Tensor

from datamodules.features.module import NO_LABEL, Labels
from datamodules.images.base import ImageItem, ImageSource
from datamodules.images.scenes import ScenesImages
from datamodules.patches import IGNORE, majority_of_labelled
from saev.backbones.base import Backbone
from saev.errors import UserError


def class_names_of(source: ImageSource, kind: str) -> list[str]:
    """Names of what labels or masks index; raises UserError where the source has neither."""
    if kind != "segmentation":
        if source.class_names is None or all(item.label is None for item in source.items):
            raise UserError(
                f"the image source {source.name!r} has no labels to train or score a head with; "
                "use images=folder with a sub-folder per class and images.labels=folder"
            )
        return list(source.class_names)
    if not source.items or source.class_names is None or source.mask(source.items[0]) is None:
        raise UserError(
            f"the image source {source.name!r} has no masks to train or score a segmentation head "
            "with; use images=segmentation or images=scenes"
        )
    # the masks of scenes have the background before the shapes that label whole pictures
    background = ["background"] if isinstance(source, ScenesImages) else []
    return [*background, *source.class_names]


def image_mask(source: ImageSource, item: ImageItem, backbone: Backbone) -> Int64[Tensor, "h w"]:
    """The mask of an image as the model sees the picture; IGNORE where there is no class."""
    mask = source.mask(item)
    if mask is None:
        raise UserError(f"the image {item.image_id} has no mask; use images=segmentation")
    return backbone.mask_transform(mask)


def image_labels(item: ImageItem) -> Int64[Tensor, " r"]:
    """The one label of an image."""
    return torch.tensor([NO_LABEL if item.label is None else item.label])


def labels_of(source: ImageSource, backbone: Backbone, kind: str) -> Labels:
    """What to learn: a class per image, or per patch by ``majority_of_labelled`` for segmentation."""
    if kind != "segmentation":
        return image_labels
    n_classes = len(class_names_of(source, kind))

    def of_patches(item: ImageItem) -> Int64[Tensor, " r"]:
        mask = image_mask(source, item, backbone).numpy()
        labels = torch.from_numpy(majority_of_labelled(mask, backbone.grid, n_classes))
        return torch.where(labels == IGNORE, NO_LABEL, labels)

    return of_patches
