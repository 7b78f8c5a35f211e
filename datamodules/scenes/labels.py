"""Labels per patch, and scenes with their labels as arrays.

Shapes: `b` scenes, `a` attributes in the order of `ATTRIBUTES`, `p` patches, row-major.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from datamodules.patches import majority_of_labelled
from datamodules.scenes.attributes import ATTRIBUTES
from datamodules.scenes.draw import Scene, draw_scene

PATCH_ATTRIBUTES = ("shape", "colour", "texture")
"""Attributes that every pixel of an object has, so that a patch can be labelled with them."""


def majority(
    mask: UInt8[np.ndarray, "h w"], patch_size: int, n_values: int
) -> UInt8[np.ndarray, " p"]:
    """Most frequent value (below `n_values`) in every patch of a mask; the lowest of equals.

    Raises `ValueError` where patches do not fill the mask exactly.
    """
    height, width = mask.shape
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"patch_size is {patch_size}, which does not divide the mask's {height} × {width} "
            "pixels."
        )
    grid = height // patch_size, width // patch_size
    return majority_of_labelled(mask, grid, n_values).astype(np.uint8)


def patch_labels(scene: Scene, patch_size: int) -> dict[str, UInt8[np.ndarray, " p"]]:
    """Per `PATCH_ATTRIBUTES` the label that most of each patch has: 0 no object, 1 + value."""
    return {
        name: majority(getattr(scene, f"{name}_mask"), patch_size, 1 + len(ATTRIBUTES[name]))
        for name in PATCH_ATTRIBUTES
    }


class SceneArrays(NamedTuple):
    """Images and everything that can be predicted from them."""

    images: UInt8[np.ndarray, "b 3 h w"]
    values: UInt8[np.ndarray, "b a"]  # number of each attribute's value
    patches: UInt8[np.ndarray, "b 3 p"]  # per PATCH_ATTRIBUTES: 0 no object, 1 + value


def draw_span(span: tuple[int, int], seed: int, size: int, patch_size: int) -> SceneArrays:
    """Scenes `span[0]` … `span[1]` − 1 of set `seed`, `size` pixels square."""
    images, values, patches = [], [], []
    for index in range(*span):
        scene = draw_scene(seed, index, size)
        images.append(scene.image.transpose(2, 0, 1))
        values.append(list(scene.values.values()))
        patches.append(list(patch_labels(scene, patch_size).values()))
    return SceneArrays(np.stack(images), np.asarray(values, np.uint8), np.asarray(patches))
