"""Gallery: exemplars of latents as tiles; every picture is stored once.

Suffixes: s latents, p patches.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from saev.atlas.description import Description
from saev.backbones import Backbone
from saev.pages.site import Picture, heat_uri, save_thumbnail

if TYPE_CHECKING:
    import pandas as pd

PIXELS_PER_PATCH = 8
FEW = 64
"""Up to so many latents are read one by one instead of a range at a time."""

Maps = dict[int, Float[np.ndarray, "h w"]]
"""Codes per patch of one latent, by image."""


class Gallery:
    """The pictures of one site.

    Args:
        description: says which images show a latent.
        backbone: cuts them into patches.
        thumbnails: whether the site may hold pictures; without, tiles show the image's id.
    """

    def __init__(self, description: Description, backbone: Backbone, thumbnails: bool) -> None:
        self.d, self.backbone, self.with_thumbs = description, backbone, thumbnails
        self.grid = backbone.grid
        self.exemplars: dict[int, pd.DataFrame] = {
            int(str(latent)): rows
            for latent, rows in description.exemplars.groupby("latent", sort=True)  # type: ignore[misc]
        }
        self.used: set[int] = set()

    @property
    def on_grid(self) -> bool:
        """Whether the dictionary's tokens are the patches, so that there are maps to show."""
        return self.d.store.n_tokens == self.grid[0] * self.grid[1]

    def of(self, latent: int, role: str, n: int) -> "pd.DataFrame":
        """The first ``n`` exemplars of a role."""
        rows = self.exemplars.get(latent, self.d.exemplars.iloc[:0])
        return rows[rows["role"] == role].head(n)

    def maps(self, chosen: list[int]) -> Iterator[tuple[int, Maps]]:
        """Codes per patch of each latent's exemplars; none where tokens are not patches."""
        store, wanted = self.d.store, set(chosen)
        few = len(wanted) <= FEW
        spans = [(k, k + 1) for k in sorted(wanted)] if few else store.chunks()
        for first, last in spans:
            latent, row, value = store.token_codes(first, last)
            bounds = np.searchsorted(latent, np.arange(first, last + 1))
            for number in range(first, last):
                if number in wanted:
                    own = slice(bounds[number - first], bounds[number - first + 1])
                    yield number, self._maps(number, row[own], value[own]) if self.on_grid else {}

    def _maps(self, latent: int, row: np.ndarray, value: np.ndarray) -> Maps:
        n_tokens = self.d.store.n_tokens
        image, token = np.divmod(row, n_tokens)
        maps: Maps = {}
        for one in self.exemplars[latent]["image"].unique():
            begin, end = np.searchsorted(image, [one, one + 1])
            codes = np.zeros(n_tokens, np.float32)
            codes[token[begin:end]] = value[begin:end]
            maps[int(one)] = codes.reshape(self.grid)
        return maps

    def tiles(self, rows: "pd.DataFrame", maps: Maps, top: float) -> list[Picture]:
        """One tile per exemplar, on a colour scale from 0 to ``top``."""
        return [self._tile(row, maps, top) for row in rows.itertuples()]

    def _tile(self, row: Any, maps: Maps, top: float) -> Picture:
        image, value = int(row.image), float(row.value)
        codes = maps.get(image)
        short = str(row.image_id).rsplit("/", 1)[-1]
        label = self.d.label_of(image)
        place = ""
        if codes is not None and value > 0:
            y, x = divmod(int(row.token), self.grid[1])
            place = f", strongest at row {y + 1}, column {x + 1} of the patches"
        shown = f"{value:.2f}" if value > 0 else "silent ·"
        return Picture(
            image_id=str(row.image_id),
            caption=f"{shown} {label or short}",
            alt=f"{label + ', ' if label else ''}image {short}; code {value:.2f}{place}",
            thumb=self.thumb(image),
            heat=None if codes is None else heat_uri(codes, top),
        )

    def thumb(self, image: int) -> str | None:
        """Path of an image's thumbnail from the root of the site, which it puts on the list."""
        if not self.with_thumbs:
            return None
        self.used.add(image)
        return f"thumbs/{image:06d}.webp"

    def face(self, latent: int) -> str | None:
        """Thumbnail of the latent's strongest image."""
        rows = self.of(latent, "max", 1)
        return self.thumb(int(rows["image"].iloc[0])) if len(rows) else None

    def write(self, folder: Path) -> None:
        """Every picture that a page shows, once; pictures of earlier runs that none shows go."""
        folder.mkdir(exist_ok=True)
        side = max(96, PIXELS_PER_PATCH * max(self.grid))
        kept = {f"{image:06d}.webp" for image in self.used}
        for path in folder.glob("*.webp"):
            if path.name not in kept:
                path.unlink()
        for image in sorted(self.used):
            path = folder / f"{image:06d}.webp"
            if not path.is_file():
                save_thumbnail(self.d.images.picture(image, self.backbone), path, side)
        if not kept:
            folder.rmdir()


def grouped(frame: "pd.DataFrame") -> "dict[int, pd.DataFrame]":
    """Rows by latent."""
    return {int(latent): rows for latent, rows in frame.groupby("latent", sort=False)}  # type: ignore[arg-type]


def records(rows: "pd.DataFrame | None") -> list[dict[str, Any]]:
    """Rows as mappings; none where there is no table."""
    return [] if rows is None else rows.to_dict("records")  # type: ignore[return-value]


def name_of(table: "pd.DataFrame", latent: int) -> str | None:
    """None for unnamed; pandas may hold that as nan."""
    name = table.loc[latent, "name"]
    return name if isinstance(name, str) else None
