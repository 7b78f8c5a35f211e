"""Figures for MLflow, papers and a first look. All return matplotlib figures drawn without a display."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from saev.pages.notebook_figure import new_figure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Tile:
    """One image with the code of one latent at every patch."""

    image: UInt8[np.ndarray, "h w 3"]
    codes: Float[np.ndarray, "gh gw"]


@dataclass(frozen=True)
class LatentRow:
    """One latent and the images that show it, strongest first."""

    latent: int
    caption: str
    tiles: list[Tile]


def exemplar_figure(title: str, rows: list[LatentRow], subtitle: str = "") -> "Figure":
    """A row per latent: its strongest images, each with its patches lit by the latent's code.

    The colour scale of a row runs from 0 to the largest code in that row, so tiles of one row can be
    compared with each other. Dark veil: the latent is silent there.
    """

    n_columns = max(len(row.tiles) for row in rows)
    figure = new_figure(1.45 * n_columns + 2.1, 1.5 * len(rows) + 0.9)
    figure.suptitle(f"{title}\n" + (subtitle or ""), fontsize=11)
    axes = figure.subplots(len(rows), n_columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, row_axes in zip(rows, axes, strict=True):
        top = max(float(tile.codes.max()) for tile in row.tiles)
        for axis, tile in zip(row_axes, row.tiles, strict=False):
            _draw_tile(axis, tile, top)
        row_axes[0].text(
            -0.08, 0.5, f"latent {row.latent}\n{row.caption}",
            transform=row_axes[0].transAxes, ha="right", va="center", fontsize=8,
        )  # fmt: skip
    return figure


def _draw_tile(axis, tile: Tile, top: float) -> None:
    height, width = tile.image.shape[:2]
    strength = np.clip(tile.codes / top, 0, 1) if top > 0 else np.zeros_like(tile.codes)
    axis.imshow(tile.image, interpolation="nearest")
    veil = np.zeros((*strength.shape, 4))
    veil[..., 3] = 0.55 * (1 - strength)  # the image shows through where the latent fires
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    axis.imshow(veil, extent=extent, interpolation="nearest")
    row, column = np.unravel_index(int(strength.argmax()), strength.shape)
    patch_h, patch_w = height / strength.shape[0], width / strength.shape[1]
    from matplotlib.patches import Rectangle

    corner = (column * patch_w - 0.5, row * patch_h - 0.5)
    axis.add_patch(
        Rectangle(corner, patch_w, patch_h, fill=False, edgecolor="#ff2d6f", linewidth=1.3)
    )
    axis.set_title(f"{tile.codes.max():.2f}", fontsize=7, pad=2)


def firing_histogram(frequency: Float[np.ndarray, " s"], n_tokens: int) -> "Figure":
    """How often latents fire, on a logarithmic axis, with the dense (> 10 %) and dead ends marked."""

    figure = new_figure(6.4, 3.4)
    axis = figure.subplots()
    alive = frequency[frequency > 0]
    floor = np.log10(0.5 / max(n_tokens, 1))
    bins = np.linspace(floor, 0, 60)
    axis.hist(np.log10(alive) if alive.size else [], bins=bins.tolist(), color="#31688e")
    axis.axvline(-1, color="#b5493a", linestyle="--", linewidth=1)
    axis.text(-0.97, 0.97, "dense", color="#b5493a", fontsize=8, va="top",
              transform=axis.get_xaxis_transform())  # fmt: skip
    n_dead, n_dense = int((frequency == 0).sum()), int((frequency > 0.1).sum())
    axis.set_title(
        f"{frequency.size:,} latents on {n_tokens:,} held-out tokens: "
        f"{n_dead:,} never fire, {n_dense:,} fire on more than 10 %",
        fontsize=9,
    )
    axis.set_xlabel("share of tokens on which a latent fires (log10)")
    axis.set_ylabel("latents")
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def latent_scatter(latents: "pd.DataFrame", subtitle: str) -> "Figure":
    """How often each latent fires against its monosemanticity above chance, coloured by support.

    Latents with an effective support below ten images are left out: their score says nothing.
    """

    shown = latents[(latents["rate_image"] > 0) & (latents["ms_support"] >= 10)]
    shown = shown[shown["ms_corrected"].notna()]
    figure = new_figure(6.4, 4.2)
    axis = figure.subplots()
    above = shown["ms"] > shown["ms_null"]
    for mask, colour, label in (
        (~above, "#b9c0ca", "not above its 95 % null"), (above, "#31688e", "above its 95 % null")
    ):  # fmt: skip
        axis.scatter(shown["rate_image"][mask], shown["ms_corrected"][mask], s=7, color=colour,
                     alpha=0.6, linewidths=0, label=f"{label} ({int(mask.sum()):,})")  # fmt: skip
    if len(shown):  # a logarithmic axis without a point cannot be drawn
        axis.set_xscale("log")
    axis.set_xlabel("share of images on which the latent fires")
    axis.set_ylabel("monosemanticity above chance")
    axis.set_title(f"{len(shown):,} latents with support; {subtitle}", fontsize=9)
    axis.legend(fontsize=8, frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    return figure
