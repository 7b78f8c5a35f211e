"""Photographs with textures and objects pasted into them: known concepts in real images.

Suffixes: h w pixels.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageOps

from datamodules.images.base import ImageItem
from datamodules.images.folder import FolderImages
from datamodules.scenes.attributes import SHAPES, TEXTURES
from datamodules.scenes.shapes import dark_share, signed_distance


@dataclass(frozen=True)
class PastedKind:
    """What is pasted: a shape (a disc for textures) in two colours with a texture."""

    shape: str
    texture: str
    light: tuple[int, int, int]
    dark: tuple[int, int, int]
    period: float = 1 / 16
    """Of the texture, over the image's side: 14 pixels of 224."""


KINDS = {
    "red stripes": PastedKind("circle", "stripes", (235, 60, 50), (90, 10, 10)),
    "blue checks": PastedKind("circle", "checker", (235, 240, 255), (30, 60, 200), 1 / 12),
    "green dots": PastedKind("circle", "dots", (240, 240, 120), (20, 130, 40), 1 / 10),
    "fine grid": PastedKind("circle", "grid", (250, 250, 250), (20, 20, 20), 1 / 24),
    "orange star": PastedKind("star", "solid", (250, 140, 20), (250, 140, 20)),
    "pink heart": PastedKind("heart", "solid", (245, 90, 170), (245, 90, 170)),
}
"""Kinds of ``PastedImages`` by name."""
RADII = (0.08, 0.2)
"""Least and largest radius of what is pasted, over the image's side."""
BACKGROUND = "background"


class PastedImages(FolderImages):
    """Square crops of photographs, each kind pasted into a random half of them.

    Whether an image has a kind, where, how large and how turned is drawn from seed and image id,
    for each kind on its own. A later kind covers an earlier one. Masks hold 0 where nothing was
    pasted and 1 + number of the kind elsewhere.

    Args:
        roots: folders of photographs, or a single one.
        size: side of the squares in pixels: the short side is resized and the centre cut out.
        kinds: names of ``KINDS``; none leaves the photographs as they are.
        share: of the images that have a kind.
        n_images, val_fraction, on_error, seed: as in ``FolderImages``.

    Raises:
        UserError: what ``FolderImages`` refuses.
        ValueError: an unknown kind, or an argument outside what is allowed.
    """

    kind = "pasted"

    def __init__(
        self,
        roots: str | Sequence[str],
        size: int = 224,
        kinds: Sequence[str] = tuple(KINDS),
        share: float = 0.5,
        *,
        n_images: int | None = None,
        val_fraction: float = 0.1,
        on_error: str = "raise",
        seed: int = 0,
    ) -> None:
        unknown = [name for name in kinds if name not in KINDS]
        if unknown:
            raise ValueError(f"kinds has {unknown[0]!r}; choose from {', '.join(KINDS)}")
        if size < 16 or not 0 <= share <= 1:
            raise ValueError(f"size={size} must be 16 or more, and share={share} from 0 to 1")
        super().__init__(
            roots,
            "none",
            n_images=n_images,
            val_fraction=val_fraction,
            on_error=on_error,
            seed=seed,
        )
        self.size, self.kinds, self.share = size, tuple(kinds), share
        self.class_names = [BACKGROUND, *self.kinds]

    def load(self, item: ImageItem) -> Image.Image:
        """The photograph with everything pasted into it."""
        crop = ImageOps.fit(super().load(item), (self.size, self.size), Image.Resampling.BICUBIC)
        pixels = np.array(crop)
        for name, (inside_hw, colours_hwc) in self._pasted(item).items():
            assert name in self.kinds
            pixels[inside_hw] = colours_hwc[inside_hw]
        return Image.fromarray(pixels)

    def mask(self, item: ImageItem) -> UInt8[np.ndarray, "h w"]:
        """0 for the photograph, 1 + number of the kind where one was pasted."""
        mask = np.zeros((self.size, self.size), np.uint8)
        for name, (inside_hw, _) in self._pasted(item).items():
            mask[inside_hw] = 1 + self.kinds.index(name)
        return mask

    def _pasted(
        self, item: ImageItem
    ) -> dict[str, tuple[Bool[np.ndarray, "h w"], UInt8[np.ndarray, "h w 3"]]]:
        return {
            name: _paste(KINDS[name], self.size, rng)
            for name in self.kinds
            if (rng := self._draws(item, name)).random() < self.share
        }

    def _draws(self, item: ImageItem, name: str) -> np.random.Generator:
        text = f"{self.seed}\0{name}\0{item.image_id}".encode()
        return np.random.default_rng(
            int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
        )

    def options(self) -> dict[str, Any]:
        own = {"size": self.size, "kinds": list(self.kinds), "share": self.share}
        return {"roots": super().options()["roots"], **own}

    def content(self) -> dict[str, Any]:
        """What is pasted, and how often."""
        table = repr([(name, KINDS[name]) for name in self.kinds] + [RADII])
        return {
            "size": self.size,
            "share": self.share,
            "pasted": hashlib.sha256(table.encode()).hexdigest(),
            "seed": self.seed,
        }


def _paste(
    kind: PastedKind, size: int, rng: np.random.Generator
) -> tuple[Bool[np.ndarray, "h w"], UInt8[np.ndarray, "h w 3"]]:
    """Where it covers the picture, and its colours everywhere."""
    radius, (cx, cy) = rng.uniform(*RADII), rng.uniform(0, 1, 2)
    angle = rng.uniform(0, 2 * math.pi)
    line = ((np.arange(size) + 0.5) / size).astype(np.float32)
    dx, dy = line[None] - np.float32(cx), line[:, None] - np.float32(cy)
    x = (math.cos(angle) * dx + math.sin(angle) * dy).astype(np.float32)
    y = (math.cos(angle) * dy - math.sin(angle) * dx).astype(np.float32)
    inside = signed_distance(SHAPES.index(kind.shape), x / radius, y / radius) <= 0
    texture = TEXTURES.index(kind.texture)
    dark = dark_share(texture, x / kind.period, y / kind.period, kind.period * size)[..., None]
    colours = (1 - dark) * np.array(kind.light) + dark * np.array(kind.dark)
    return inside, colours.round().astype(np.uint8)
