"""Segmentation folders: images with a class per pixel."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from datamodules.images.base import Found, ImageItem, ImageSource, short_name
from datamodules.images.decode import decode_image, read_mask
from datamodules.images.layout import find_sections, named_roots, no_images, walk_images
from datamodules.patches import IGNORE
from saev.errors import UserError, first_line
from saev.files import MOST_BYTES, a_list, a_text, shown


class SegmentationImages(ImageSource):
    """Roots with `images/` beside `masks/` (a PNG of the same stem), whole or inside split folders.

    Class names come from `classes.json` (a list) or `meta.json` ({"classes": [...]}) at the root; a
    mask's value is an index into them. Images have no label of their own.

    Args:
        roots: folders, or a single one; all with the same classes.
        void_value: value that means "no class" in the mask files, beside 255 (CamVid: 11).
        n_images: limit over all splits, whose proportions stay; None for all.
        val_fraction: share held out of each root that has no splits of its own.
        on_error: "raise" refuses a broken image, "skip" leaves it out and lists it; a bad mask is
            always refused.
        seed: decides which images are held out and which remain under the limit.

    Raises:
        UserError: a root that is missing, empty or laid out otherwise; class names missing or
            different between roots; an image without a mask.
        ValueError: an argument outside what is allowed.
    """

    kind = "segmentation"

    def __init__(
        self,
        roots: str | Sequence[str],
        void_value: int | None = None,
        *,
        n_images: int | None = None,
        val_fraction: float = 0.1,
        on_error: str = "raise",
        seed: int = 0,
    ) -> None:
        super().__init__(n_images=n_images, val_fraction=val_fraction, on_error=on_error, seed=seed)
        if void_value is not None and not 0 <= void_value <= IGNORE:
            raise ValueError(f"void_value is {void_value}; masks hold values from 0 to {IGNORE}")
        self.void_value = void_value
        self.roots = named_roots(roots)
        self.name = short_name(list(self.roots))
        self.class_names = _common_classes(list(self.roots.values()))
        self._files: dict[str, tuple[Path, Path]] = {}  # image id → image, mask
        self._settle(image for name, root in self.roots.items() for image in self._find(name, root))

    def _find(self, name: str, root: Path) -> list[Found]:
        found = []
        for section in find_sections(root):
            if section.masks is None:
                raise UserError(
                    f"{section.images} has no images/ and masks/ folders side by side: use "
                    "images=folder, or point images.roots at segmentation folders"
                )
            for path, n_bytes in walk_images(section.images):
                image = section.images / path
                mask = (section.masks / path).with_suffix(".png")
                if not mask.is_file():
                    raise UserError(
                        f"the image {image} has no mask {mask}: add it, or use images=folder"
                    )
                below = image.relative_to(root).as_posix()
                self._files[f"{name}/{below}"] = image, mask
                found.append(Found(f"{name}/{below}", section.split, None, below, n_bytes))
        if not found:
            raise no_images(root)
        return found

    def load(self, item: ImageItem) -> Image.Image:
        """Raises `BrokenImage` with the file's full path."""
        path = self._files[item.image_id][0]
        return decode_image(path, str(path))

    def mask(self, item: ImageItem) -> UInt8[np.ndarray, "h w"]:
        """Index into `class_names` per pixel, 255 where there is no class.

        Raises `UserError` when the mask is unreadable, of another size than the image, or holds a
        value that is no class.
        """
        path = self._files[item.image_id][1]
        mask = read_mask(path, self.load(item).size)
        if self.void_value is not None:
            mask[mask == self.void_value] = IGNORE
        values, n_classes = mask[mask != IGNORE], len(self.class_names or [])
        if values.size and values.max() >= n_classes:
            raise UserError(
                f"the mask {path} holds the value {values.max()} and there are "
                f"{n_classes} classes: set images.void_value={values.max()} if it means "
                "no class, or complete classes.json"
            )
        return mask

    def options(self) -> dict[str, Any]:
        return {
            "roots": [str(root) for root in self.roots.values()],
            "void_value": self.void_value,
        }

    def content(self) -> dict[str, Any]:
        """How mask values are read."""
        return {"void_value": self.void_value}


def _common_classes(roots: list[Path]) -> list[str]:
    names = {root: _read_classes(root) for root in roots}
    for root in roots[1:]:
        if names[root] != names[roots[0]]:
            raise UserError(
                f"{roots[0]} and {root} have different classes: use one of them at a time"
            )
    return names[roots[0]]


def _read_classes(root: Path) -> list[str]:
    for file in (root / "classes.json", root / "meta.json"):
        if not file.is_file():
            continue
        try:
            if file.stat().st_size > MOST_BYTES:
                raise UserError(f"{file} has more than {MOST_BYTES:,} bytes: write it again")
            names = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            if isinstance(error, UserError):
                raise
            reason = first_line(error)
            raise UserError(f"{file} is not JSON ({reason}): write it again") from error
        if isinstance(names, dict):
            names = names.get("classes")
        if isinstance(names, list) and a_list(a_text(1000), 1)(names, "classes") is None:
            if len(set(names)) < len(names):
                again = next(name for i, name in enumerate(names) if name in names[:i])
                raise UserError(f"{file} names {shown(again)} twice: give every class its own name")
            return names
        raise UserError(
            f'{file} names no classes: it must hold a list of names, or {{"classes": [...]}}'
        )
    raise UserError(f"{root} has no classes.json: write the list of class names there")
