"""Outlines and textures as functions of object coordinates, vectorised over pixels.

Object coordinates: the centre is (0, 0), y points down, the unit of shapes is the object's radius.
A signed distance is negative inside. Only its sign and its values near the outline matter here,
so a bound that is exact there stands in for the full Euclidean distance.
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float32

from datamodules.scenes.attributes import SHAPES, TEXTURES

Plane = Float32[np.ndarray, "h w"]

EXTENT = 1.2
"""No shape reaches further from its centre than this many radii."""
TEXTURE_PERIOD = 0.0625
"""Width of a light and a dark stripe together over the image's side: 6 pixels of 96."""


def _circle(x: Plane, y: Plane, radius: float = 1.0) -> Plane:
    return np.hypot(x, y) - radius


def _box(x: Plane, y: Plane, half_width: float, half_height: float) -> Plane:
    return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)


def _pointed(x: Plane, y: Plane, n_points: int, inner: float) -> Plane:
    """Star with `n_points` tips at radius 1, one of them on top, and notches at radius `inner`.

    All edges are mirror images of one another, so the plane is folded onto a single edge: the line
    from the tip (1, 0) to the notch at angle π / n_points.
    """
    radius = np.hypot(x, y)
    sector = 2 * math.pi / n_points
    angle = np.arctan2(x, -y)  # 0 on top
    angle = np.abs(angle - sector * np.round(angle / sector))
    along, across = radius * np.cos(angle), radius * np.sin(angle)
    notch_x, notch_y = inner * math.cos(math.pi / n_points), inner * math.sin(math.pi / n_points)
    edge_x, edge_y = notch_x - 1, notch_y
    length = math.hypot(edge_x, edge_y)
    return (along - 1) * edge_y / length - across * edge_x / length


def _square(x: Plane, y: Plane) -> Plane:
    return _box(x, y, 0.85, 0.85)


def _triangle(x: Plane, y: Plane) -> Plane:
    # An equilateral triangle is the three-pointed star whose notches lie on its sides.
    scale = 1.18  # else it looks smaller than the others
    return _pointed(x / scale, (y - 0.15) / scale, 3, 0.5) * scale


def _star(x: Plane, y: Plane) -> Plane:
    return _pointed(x / 1.1, y / 1.1, 5, 0.48) * 1.1


def _heart(x: Plane, y: Plane) -> Plane:
    """A square on its corner, half a circle on each of its two upper sides."""
    half = 0.62
    y = y - 0.12
    root = math.sqrt(0.5)
    right, down = (x - y) * root, (x + y) * root  # axes along the square's sides
    lobes = np.minimum(_circle(right - half, down, half), _circle(right, down + half, half))
    return np.minimum(_box(right, down, half, half), lobes)


def _crescent(x: Plane, y: Plane) -> Plane:
    return np.maximum(_circle(x, y), -_circle(x - 0.5, y, 0.72))


def _cross(x: Plane, y: Plane) -> Plane:
    return np.minimum(_box(x, y, 1.0, 0.37), _box(x, y, 0.37, 1.0))


def _ring(x: Plane, y: Plane) -> Plane:
    return np.abs(_circle(x, y, 0.71)) - 0.29


_OUTLINES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "crescent": _crescent,
    "cross": _cross,
    "ring": _ring,
}


def signed_distance(shape: int, x: Plane, y: Plane) -> Plane:
    """Distance to the outline of shape number `shape`, negative inside; all in radii."""
    return _OUTLINES[SHAPES[shape]](x, y)


def _wave(phase: Plane) -> Plane:
    """Between −1 and 1, with period 1 and a crest at 0."""
    return np.cos(2 * math.pi * phase)


_TEXTURES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "solid": lambda x, y: np.full_like(x, -9.0),  # far from the edge between the tones
    "stripes": lambda x, y: _wave(x),
    "dots": lambda x, y: _wave(x) + _wave(y) - 0.35,
    "checker": lambda x, y: _wave(x / 2) * _wave(y / 2) * 2,
    "rings": lambda x, y: _wave(np.hypot(x, y)),
    "grid": lambda x, y: np.maximum(_wave(x), _wave(y)) - 0.55,
}


def dark_share(texture: int, x: Plane, y: Plane, pixels_per_period: float) -> Plane:
    """Share of the dark tone, 0–1, of texture number `texture` at points given in texture periods.

    `pixels_per_period` sets how sharp the edges are: about one pixel from one tone to the other.
    """
    sharpness = pixels_per_period / (2 * math.pi)
    return np.clip(_TEXTURES[TEXTURES[texture]](x, y) * sharpness + 0.5, 0, 1)
