"""Backgrounds: five, each a base colour and a few features that make it readable at a glance.

Every feature is a formula of the position in fractions of the side, so the same scene drawn larger
shows the same clouds. Low contrast against objects is on purpose.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32

from datamodules.scenes.attributes import BACKGROUNDS

Picture = Float32[np.ndarray, "h w 3"]
Plane = Float32[np.ndarray, "h w"]
Axis = Float32[np.ndarray, "n"]

DARK_OUTLINE = (28.0, 26.0, 34.0)
LIGHT_OUTLINE = (245.0, 245.0, 250.0)


def outline_colour(background: int) -> tuple[float, float, float]:
    """RGB of the line around objects: whichever of the two stands out from the background."""
    return LIGHT_OUTLINE if BACKGROUNDS[background] == "night" else DARK_OUTLINE


def _mix(share: Plane, low: tuple[int, int, int], high: tuple[int, int, int]) -> Picture:
    """Colour `low` where `share` is 0, `high` where it is 1."""
    low_3, high_3 = np.asarray(low, np.float32), np.asarray(high, np.float32)
    return low_3 + share[..., None] * (high_3 - low_3)


def _spots(
    rng: np.random.Generator, axis: Axis, n: int, half_width: float, half_height: float
) -> Plane:
    """Sum of `n` soft spots at random places; a product of two exponentials each, so one matmul."""
    centres = rng.uniform(0, 1, (n, 2)).astype(np.float32)
    columns = np.exp(-(((axis - centres[:, :1]) / half_width) ** 2))
    rows = np.exp(-(((axis - centres[:, 1:]) / half_height) ** 2))
    return rows.T @ columns


def _sky(rng: np.random.Generator, axis: Axis) -> Picture:
    clouds = np.clip(_spots(rng, axis, 7, 0.16, 0.05), 0, 1)
    return _mix(
        np.clip(0.55 * axis[:, None] + 0.9 * clouds, 0, 1), (128, 190, 240), (236, 245, 252)
    )


def _grass(rng: np.random.Generator, axis: Axis) -> Picture:
    blades = np.clip(_spots(rng, axis, 110, 0.007, 0.035), 0, 1)
    return _mix(blades, (142, 186, 88), (104, 150, 62))


def _sand(rng: np.random.Generator, axis: Axis) -> Picture:
    grains = _spots(rng, axis, 90, 0.009, 0.009) - _spots(rng, axis, 60, 0.009, 0.009)
    return _mix(np.clip(0.5 + 0.5 * grains, 0, 1), (200, 172, 122), (240, 220, 176))


def _water(rng: np.random.Generator, axis: Axis) -> Picture:
    shift_1, shift_2, shift_3 = rng.uniform(0, 2 * np.pi, 3).astype(np.float32)
    swell = 0.35 * np.sin(13 * axis + shift_1) + 0.25 * np.sin(22 * axis + shift_2)
    waves = np.sin(50 * axis[:, None] + 3 * swell[None, :] + shift_3)
    return _mix(np.clip(2.2 * waves - 1.2, 0, 1), (58, 132, 160), (128, 190, 205))


def _night(rng: np.random.Generator, axis: Axis) -> Picture:
    stars = np.clip(1.4 * _spots(rng, axis, 26, 0.008, 0.008), 0, 1)
    sky = _mix(np.broadcast_to(axis[:, None], (len(axis), len(axis))), (14, 16, 42), (34, 34, 78))
    return sky + stars[..., None] * (225 - sky)


_PAINTERS: dict[str, Callable[[np.random.Generator, Axis], Picture]] = {
    "sky": _sky,
    "grass": _grass,
    "sand": _sand,
    "water": _water,
    "night": _night,
}


def paint_background(background: int, rng: np.random.Generator, size: int) -> Picture:
    """RGB 0–255 of background number `background`, `size` pixels square; `rng` places the rest."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    return _PAINTERS[BACKGROUNDS[background]](rng, axis)
