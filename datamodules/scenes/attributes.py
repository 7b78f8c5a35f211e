"""Attributes of a scene, before a pixel of it exists: value tables and sampled descriptions.

Lengths and positions are fractions of the image's side, so that a description can be drawn at any
size. x runs to the right and y downwards, as pixels do.
"""

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "heart", "crescent", "cross", "ring")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
TEXTURES = ("solid", "stripes", "dots", "checker", "rings", "grid")
SIZES = ("small", "medium", "large")
COLUMNS = ("left", "middle", "right")
ROWS = ("top", "centre", "bottom")
COUNTS = ("one", "two", "three")
BACKGROUNDS = ("sky", "grass", "sand", "water", "night")

ATTRIBUTES = MappingProxyType(
    {
        "shape": SHAPES,
        "colour": COLOURS,
        "texture": TEXTURES,
        "size": SIZES,
        "column": COLUMNS,
        "row": ROWS,
        "count": COUNTS,
        "background": BACKGROUNDS,
    }
)
"""Every attribute of a scene with the names of its values; a value's number is its place there."""

RADII = (0.14, 0.18, 0.22)
"""Radius of the main object per size: 13, 17 and 21 pixels of 96."""
COMPANION_SCALE = 0.6
"""Radius of a companion over that of the main object, which is therefore always the largest."""
CELL_CENTRES = (0.26, 0.5, 0.74)
"""Centre of the main object per column or row; the largest object still fits at the border."""
POSITION_JITTER = 0.025
RADIUS_JITTER = 0.03
ANGLE_JITTER = 0.2  # radians; small enough for a square not to become a diamond
GAP = 0.02  # free space wanted between two objects
N_PLACES_TRIED = 64  # candidates per companion; all fail for fewer than one scene in a thousand


@dataclass(frozen=True)
class ObjectDescription:
    """One object: attributes as numbers into the tables, geometry in fractions of the side."""

    shape: int
    colour: int
    texture: int
    size: int  # whose radius in RADII is nearest to the object's own: companions are small
    column: int  # third of the image in which the centre lies
    row: int
    x: float
    y: float
    radius: float
    angle: float  # radians


@dataclass(frozen=True)
class SceneDescription:
    """All that decides a picture. `objects[0]` is the main object, drawn last and on top."""

    seed: int
    index: int
    count: int  # number into COUNTS: there are count + 1 objects
    background: int
    objects: tuple[ObjectDescription, ...]

    @property
    def values(self) -> dict[str, int]:
        """Number of each attribute's value, in the order of `ATTRIBUTES`."""
        main = self.objects[0]
        of_main = ("shape", "colour", "texture", "size", "column", "row")
        return {name: getattr(main, name) for name in of_main} | {
            "count": self.count,
            "background": self.background,
        }


def attribute_table() -> dict[str, list[str]]:
    """Names of every attribute's values, as plain lists that JSON can hold."""
    return {name: list(values) for name, values in ATTRIBUTES.items()}


def check_seed_index(seed: int, index: int) -> None:
    """Raises `ValueError` for a negative seed or index, which no generator accepts."""
    for name, value in (("seed", seed), ("index", index)):
        if value < 0:
            raise ValueError(f"{name} is {value}, but must be 0 or more.")


def sample_scene(seed: int, index: int) -> SceneDescription:
    """Description number `index` of the endless set `seed`; depends on these two numbers alone.

    The eight attributes of `ATTRIBUTES` are uniform and mutually independent. Companions draw
    shape, colour and texture the same way and take a free place, which does depend on the main
    object, as their radius does; the size that they are labelled with is that of this radius.
    Raises `ValueError` for negative numbers.
    """
    check_seed_index(seed, index)
    rng = np.random.default_rng([seed, index])
    values = dict(zip(ATTRIBUTES, _uniform_values(rng, list(ATTRIBUTES)), strict=True))
    count, background = values.pop("count"), values.pop("background")
    jitter_x, jitter_y = rng.uniform(-POSITION_JITTER, POSITION_JITTER, 2)
    main = ObjectDescription(
        **values,
        x=CELL_CENTRES[values["column"]] + float(jitter_x),
        y=CELL_CENTRES[values["row"]] + float(jitter_y),
        radius=RADII[values["size"]] * (1 + rng.uniform(-RADIUS_JITTER, RADIUS_JITTER)),
        angle=rng.uniform(-ANGLE_JITTER, ANGLE_JITTER),
    )
    objects = [main]
    for _ in range(count):
        objects.append(_companion(rng, objects))
    return SceneDescription(seed, index, count, background, tuple(objects))


def _uniform_values(rng: np.random.Generator, names: list[str]) -> list[int]:
    return [int(v) for v in rng.integers([len(ATTRIBUTES[name]) for name in names])]


def _companion(rng: np.random.Generator, objects: list[ObjectDescription]) -> ObjectDescription:
    shape, colour, texture = _uniform_values(rng, ["shape", "colour", "texture"])
    main = objects[0]
    radius = COMPANION_SCALE * main.radius
    x, y = _free_place(rng, objects, radius)
    return ObjectDescription(
        shape=shape,
        colour=colour,
        texture=texture,
        size=nearest_size(radius),
        column=int(3 * x),
        row=int(3 * y),
        x=x,
        y=y,
        radius=radius,
        angle=rng.uniform(-ANGLE_JITTER, ANGLE_JITTER),
    )


def nearest_size(radius: float) -> int:
    """Number of the size whose radius is nearest."""
    return int(np.abs(np.asarray(RADII) - radius).argmin())


def _free_place(
    rng: np.random.Generator, objects: list[ObjectDescription], radius: float
) -> tuple[float, float]:
    """First of some random places clear of all objects so far, or the one that overlaps least."""
    places = rng.uniform(radius, 1 - radius, (N_PLACES_TRIED, 2))
    clearance = np.min(
        [np.hypot(places[:, 0] - o.x, places[:, 1] - o.y) - o.radius for o in objects], axis=0
    )
    clear = clearance >= radius + GAP
    best = int(np.argmax(clear)) if clear.any() else int(np.argmax(clearance))
    return float(places[best, 0]), float(places[best, 1])
