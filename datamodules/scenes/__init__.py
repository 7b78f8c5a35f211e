"""Scenes: procedural images with known concepts, made from (seed, index), labelled to the pixel.

attributes: tables of values, and sampled descriptions
shapes: outlines and textures
backgrounds: the five backgrounds
draw: description → image and masks
labels: labels per patch, scenes as arrays
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from datamodules.scenes.attributes import (
    ATTRIBUTES,
    BACKGROUNDS,
    COLOURS,
    COLUMNS,
    COUNTS,
    ROWS,
    SHAPES,
    SIZES,
    TEXTURES,
    ObjectDescription,
    SceneDescription,
    attribute_table,
    sample_scene,
)

if TYPE_CHECKING:
    from datamodules.scenes.draw import Scene, draw_scene, render, scene_attributes
    from datamodules.scenes.labels import PATCH_ATTRIBUTES, patch_labels

__all__ = [
    "ATTRIBUTES",
    "BACKGROUNDS",
    "COLOURS",
    "COLUMNS",
    "COUNTS",
    "PATCH_ATTRIBUTES",
    "ROWS",
    "SHAPES",
    "SIZES",
    "TEXTURES",
    "ObjectDescription",
    "Scene",
    "SceneDescription",
    "attribute_table",
    "draw_scene",
    "patch_labels",
    "render",
    "sample_scene",
    "scene_attributes",
]

_HOMES = {
    "PATCH_ATTRIBUTES": "labels",
    "Scene": "draw",
    "draw_scene": "draw",
    "patch_labels": "labels",
    "render": "draw",
    "scene_attributes": "draw",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
