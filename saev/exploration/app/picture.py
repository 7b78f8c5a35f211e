"""The gallery, and the picture with its patch grid."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from saev.exploration.app.markup import picture_uri, words
from saev.pages.site import heat_uri

if TYPE_CHECKING:
    from PIL.Image import Image

LARGEST_SIDE = 672
"""Pixels of the picture sent to the browser."""


def gallery_strip(images: Sequence[Any], chosen: str) -> str:
    """Thumbnails as buttons, the chosen one pressed; ``images`` have key, title and thumbnail."""
    tiles = "".join(
        f'<button type="button" class="thumb" data-pick="{words(one.key)}" '
        f'aria-pressed="{"true" if one.key == chosen else "false"}" title="{words(one.title)}">'
        f'<img src="{picture_uri(one.thumbnail, 96)}" alt="{words(one.title)}"></button>'
        for one in images
    )
    return f'<div class="strip">{tiles}</div>'


def patch_picture(
    image: "Image",
    grid: tuple[int, int],
    marked: Collection[int],
    heat: Float[np.ndarray, "gh gw"] | None = None,
    legend: str = "",
) -> str:
    """The picture as the model sees it, a cell for each patch, and the codes of one latent over it.

    Patches count row by row from 0 at the upper left. The script ``patch_grid.js`` marks them.
    """
    gh, gw = grid
    unit = 100 / max(gh, gw)
    width, height = gw * unit, gh * unit
    marks = set(marked)
    cells = "".join(
        f'<rect data-patch="{p}"{" class=marked" if p in marks else ""} '
        f'x="{p % gw * unit:.3f}" y="{p // gw * unit:.3f}" width="{unit:.3f}" height="{unit:.3f}"/>'
        for p in range(gh * gw)
    )
    layer = ""
    uri = None if heat is None else heat_uri(np.maximum(heat, 0), float(heat.max()))
    if uri:
        size = f'width="{width}" height="{height}" preserveAspectRatio="none"'
        layer = f'<image class="heat" href="{uri}" {size}/>'
    label = (
        f"Picture with {gh} times {gw} patches. Arrow keys move, space marks, Escape unmarks all."
    )
    return (
        f'<svg class="patches" viewBox="0 0 {width:.3f} {height:.3f}" tabindex="0" role="application" '
        f'aria-label="{label}" data-columns="{gw}" data-rows="{gh}">'
        f'<image href="{picture_uri(image, LARGEST_SIDE)}" width="{width}" height="{height}" '
        f'preserveAspectRatio="none"/>{layer}{cells}</svg><p class="legend">{words(legend)}</p>'
    )


def overlay(
    image: "Image", values: Float[np.ndarray, "rows columns"], caption: str, alt: str
) -> str:
    """A small picture with a map over it, as a figure."""
    uri = heat_uri(np.maximum(values, 0), float(values.max()))
    heat = f'<img class="heat" src="{uri}" alt="">' if uri else ""
    return (
        f'<figure class="tile"><div class="frame"><img src="{picture_uri(image, 224)}" '
        f'alt="{words(alt)}">{heat}</div><figcaption>{words(caption)}</figcaption></figure>'
    )


def patches_text(patches: Sequence[int]) -> str:
    """Patches as the text field shows them: ``3, 7-9``."""
    runs: list[list[int]] = []
    for p in sorted(set(patches)):
        if runs and p == runs[-1][-1] + 1:
            runs[-1].append(p)
        else:
            runs.append([p])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def patches_of(text: str, n_patches: int) -> tuple[int, ...]:
    """The inverse of :func:`patches_text`; spaces serve as commas.

    Raises:
        UserError: a word that is no number or range, or a patch that the picture does not have.
    """
    import re

    from saev.errors import UserError

    found: list[int] = []
    for word in re.split(r"[,;\s]+", text.strip()[:10_000]):
        if not word:
            continue
        ends = re.fullmatch(r"(\d{1,6})(?:[-–](\d{1,6}))?", word)
        if ends is None:
            raise UserError(f"patches: {word[:20]!r} is no number; write for example 3, 7-9")
        low, high = int(ends[1]), int(ends[2] or ends[1])
        if high >= n_patches or low > high:
            raise UserError(f"patches: {word[:20]} is not among 0 to {n_patches - 1}")
        found += range(low, high + 1)
    return tuple(sorted(set(found)))
