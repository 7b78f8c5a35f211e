"""Side by side: what two dictionaries, of one model or of two, see in the same picture.

Suffixes: gh gw a grid of patches, k latents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from saev.exploration.answers import RankedLatent

if TYPE_CHECKING:
    from saev.exploration.explorer import Explorer


@dataclass(frozen=True)
class AlikeLatent:
    """A latent of the second dictionary that fires like one of the first."""

    latent: int
    cosine: float
    """Between both heat-maps on one picture, on the finer of both grids; 1: the same patches, alike."""


@dataclass(frozen=True)
class SideBySide:
    """One picture in two dictionaries."""

    first: list[RankedLatent]
    second: list[RankedLatent]
    second_patches: tuple[int, ...]
    """The marked patches on the second model's grid."""
    alike: list[AlikeLatent]
    """Of the second dictionary, most alike first; empty where no latent was given, or it does not fire."""


def side_by_side(
    first: Explorer, second: Explorer, key: str, patches: Sequence[int], latent: int | None = None,
    n: int = 10, sort: str = "activation",
) -> SideBySide:  # fmt: skip
    """Rankings of both in the same patches, and which latents of the second fire like one of the first.

    Args:
        key: of an image that both know.
        patches: of the first one's grid; none: the whole picture.
        latent: of the first dictionary.
        n: rows of each ranking; of latents that fire alike there are at most 5.

    Raises:
        UserError: an unknown image, patch or latent.
    """
    on_second = same_places(patches, first.grid, second.grid)
    alike: list[AlikeLatent] = []
    if latent is not None:
        alike = _alike(first.heatmap(key, latent), second, key)
    return SideBySide(
        first.look(key, patches or None, n, sort), second.look(key, on_second or None, n, sort),
        on_second, alike,
    )  # fmt: skip


def same_places(
    patches: Sequence[int], of: tuple[int, int], to: tuple[int, int]
) -> tuple[int, ...]:
    """Patches of the grid ``to`` that cover part of these patches of the grid ``of``."""
    found: set[int] = set()
    for patch in patches:
        rows = _covering(patch // of[1], of[0], to[0])
        columns = _covering(patch % of[1], of[1], to[1])
        found |= {row * to[1] + column for row in rows for column in columns}
    return tuple(sorted(found))


def _covering(place: int, of: int, to: int) -> range:
    """Cells of ``to`` equal ones that overlap the cell ``place`` of ``of`` equal ones."""
    return range(place * to // of, math.ceil((place + 1) * to / of))


def _alike(heat: Float[np.ndarray, "gh gw"], second: Explorer, key: str) -> list[AlikeLatent]:
    if not (heat > 0).any():
        return []
    rows = second.look(key, None, n=200)
    grid = tuple(max(a, b) for a, b in zip(heat.shape, second.grid, strict=True))
    own = on_grid(heat, grid).ravel()
    found = []
    for row in rows:
        other = on_grid(second.heatmap(key, row.latent), grid).ravel()
        size = float(np.linalg.norm(own) * np.linalg.norm(other))
        if size > 0:
            found.append(AlikeLatent(row.latent, float(own @ other) / size))
    return sorted(found, key=lambda one: (-one.cosine, one.latent))[:5]


def on_grid(heat: Float[np.ndarray, "gh gw"], grid: tuple[int, ...]) -> Float[np.ndarray, "fh fw"]:
    """A map on a finer grid: each cell has the value of the patch that its centre lies in."""
    rows, columns = (
        ((np.arange(fine) + 0.5) * coarse / fine).astype(int)
        for fine, coarse in zip(grid, heat.shape, strict=True)
    )
    return heat[np.ix_(rows, columns)]
