"""Rendering: from a description to the image and its masks."""

from dataclasses import dataclass
from math import ceil, cos, floor, sin

import numpy as np
from jaxtyping import Float32, UInt8

from datamodules.scenes.attributes import (
    ATTRIBUTES,
    ObjectDescription,
    SceneDescription,
    sample_scene,
)
from datamodules.scenes.backgrounds import outline_colour, paint_background
from datamodules.scenes.shapes import EXTENT, TEXTURE_PERIOD, dark_share, signed_distance

RGB = {
    "red": (222, 38, 38),
    "orange": (255, 140, 20),
    "yellow": (255, 226, 40),
    "green": (24, 158, 66),
    "blue": (36, 84, 226),
    "purple": (140, 52, 190),
    "pink": (255, 138, 196),
    "white": (250, 250, 250),
}
DARK_TONE = 0.45
"""Second tone of a texture over the first: the hue stays, so colour and texture read apart."""
OUTLINE_WIDTH = 0.015  # of the image's side, inside the object
SMALLEST_SIZE = 48  # pixels; below, a texture's period is under three pixels


@dataclass(frozen=True, eq=False)  # arrays have no single truth value to compare by
class Scene:
    """A picture with its ground truth; the masks show visible parts only."""

    description: SceneDescription
    image: UInt8[np.ndarray, "h w 3"]
    object_mask: UInt8[np.ndarray, "h w"]  # 0 background, n + 1 for objects[n]
    shape_mask: UInt8[np.ndarray, "h w"]  # 0 background, 1 + value; the next two alike
    colour_mask: UInt8[np.ndarray, "h w"]
    texture_mask: UInt8[np.ndarray, "h w"]

    @property
    def values(self) -> dict[str, int]:
        """Number of each attribute's value, in the order of `ATTRIBUTES`."""
        return self.description.values

    @property
    def objects(self) -> tuple[ObjectDescription, ...]:
        """All objects, the main one first."""
        return self.description.objects

    @property
    def class_label(self) -> int:
        """Shape of the main object, a number into `SHAPES`."""
        return self.objects[0].shape

    @property
    def semantic_mask(self) -> UInt8[np.ndarray, "h w"]:
        """Class per pixel for segmentation: 0 background, 1 + shape."""
        return self.shape_mask


def scene_attributes(scene: Scene | SceneDescription) -> dict[str, str]:
    """Name of each attribute's value, e.g. {"shape": "heart", "colour": "red", …}."""
    return {name: ATTRIBUTES[name][value] for name, value in scene.values.items()}


def draw_scene(seed: int, index: int, size: int = 96) -> Scene:
    """Scene number `index` of the endless set `seed`, `size` pixels square.

    Depends on the three numbers alone. Raises `ValueError` for negative numbers or a size below
    `SMALLEST_SIZE`.
    """
    return render(sample_scene(seed, index), size)


def render(description: SceneDescription, size: int = 96) -> Scene:
    """Draws a description, `size` pixels square; `ValueError` for a size below `SMALLEST_SIZE`."""
    if size < SMALLEST_SIZE:
        raise ValueError(
            f"size is {size} pixels, but textures need {SMALLEST_SIZE} or more to be visible."
        )
    # A stream of its own: drawing can then change without changing what is sampled.
    rng = np.random.default_rng([description.seed, description.index, 1])
    picture = paint_background(description.background, rng, size)
    object_mask = np.zeros((size, size), np.uint8)
    line = np.asarray(outline_colour(description.background), np.float32)
    for number in reversed(range(len(description.objects))):
        _paint_object(picture, object_mask, description.objects[number], number + 1, line)
    image = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    return Scene(
        description,
        image,
        object_mask,
        _attribute_mask(object_mask, [o.shape for o in description.objects]),
        _attribute_mask(object_mask, [o.colour for o in description.objects]),
        _attribute_mask(object_mask, [o.texture for o in description.objects]),
    )


def _attribute_mask(
    object_mask: UInt8[np.ndarray, "h w"], values: list[int]
) -> UInt8[np.ndarray, "h w"]:
    return np.asarray([0, *(1 + v for v in values)], np.uint8)[object_mask]


def _paint_object(
    picture: Float32[np.ndarray, "h w 3"],
    object_mask: UInt8[np.ndarray, "h w"],
    thing: ObjectDescription,
    number: int,
    line: Float32[np.ndarray, "3"],
) -> None:
    """Draws `thing` over `picture` and `object_mask` in place."""
    size = len(picture)
    reach = EXTENT * thing.radius * size + 1
    left, right = _pixel_span(thing.x * size, reach, size)
    top, bottom = _pixel_span(thing.y * size, reach, size)
    across = np.arange(left, right, dtype=np.float32) + 0.5 - thing.x * size
    down = np.arange(top, bottom, dtype=np.float32) + 0.5 - thing.y * size
    cosine, sine = cos(thing.angle), sin(thing.angle)
    x = cosine * across[None, :] + sine * down[:, None]
    y = cosine * down[:, None] - sine * across[None, :]

    radius, period = thing.radius * size, TEXTURE_PERIOD * size
    outside = signed_distance(thing.shape, x / radius, y / radius) * radius  # pixels
    dark = dark_share(thing.texture, x / period, y / period, period)
    name = ATTRIBUTES["colour"][thing.colour]
    body = np.asarray(RGB[name], np.float32) * (1 - (1 - DARK_TONE) * dark)[..., None]
    in_line = np.clip(outside + OUTLINE_WIDTH * size + 0.5, 0, 1)[..., None]
    body += in_line * (line - body)

    window = picture[top:bottom, left:right]
    window += np.clip(0.5 - outside, 0, 1)[..., None] * (body - window)
    object_mask[top:bottom, left:right][outside < 0] = number


def _pixel_span(centre: float, reach: float, size: int) -> tuple[int, int]:
    return max(0, floor(centre - reach)), min(size, ceil(centre + reach))
