"""Contract of an image source, and what all sources share."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from datamodules.images.selection import SPLITS, decide_splits, limit_images
from saev.errors import UserError


@dataclass(frozen=True)
class ImageItem:
    """One image of a source."""

    image_id: str
    """Stable and unique in the source, e.g. "caltech26/train/watch/image_0003.jpg"."""
    split: str
    """ "train", "val" or "test"; held-out is everything but "train"."""
    label: int | None
    """Index into the source's class names."""
    path: str | None
    """Relative to the image root; None where there is no file."""


class Found(NamedTuple):
    """One image as a source finds it, before splits and limit are decided."""

    image_id: str
    split: str | None  # None: the source does not say, val_fraction decides
    label: int | None
    path: str | None
    n_bytes: int  # size of the file; enters the fingerprint


class BrokenImage(UserError):
    """An image cannot be read. `where` is its path (or tar and member), `reason` a short phrase."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(where, reason)  # both in args, so that the error survives pickling
        self.where = where
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"the image {self.where} cannot be used ({self.reason}): replace or remove it, "
            "or set images.on_error=skip to leave such images out"
        )


class ImageSource(ABC):
    """Images behind one interface, whatever they come from.

    A subclass checks the common arguments with ``super().__init__(…)``, finds its images and hands
    them to `_settle`; from then on `items` is fixed.
    """

    kind: str
    """Name of the sort of source; one word."""
    name: str
    """Short, for folder names and tables."""
    class_names: list[str] | None
    """What labels index; None where images have no labels."""
    items: list[ImageItem]
    """All splits, in a stable order, after the limit `n_images`."""
    n_skipped: list[dict[str, str]]
    """Broken images left out so far: "image_id" and "reason"."""

    def __init__(
        self, *, n_images: int | None, val_fraction: float, on_error: str, seed: int
    ) -> None:
        if n_images is not None and n_images < 1:
            raise ValueError(f"n_images is {n_images}; use 1 or more, or null for all images")
        if not 0 <= val_fraction < 1:
            raise ValueError(
                f"val_fraction is {val_fraction}; it is a share of the images, from 0 to below 1"
            )
        if on_error not in ("raise", "skip"):
            raise ValueError(
                f"on_error is {on_error!r}; choose 'raise' to stop at a broken image or 'skip' to "
                "leave it out"
            )
        if seed < 0:
            raise ValueError(f"seed is {seed}; use 0 or more")
        self.n_images = n_images
        self.val_fraction = val_fraction
        self.on_error = on_error
        self.seed = seed
        self.class_names = None
        self.items = []
        self.n_skipped = []
        self._n_bytes: list[int] = []

    def _settle(self, found: Iterable[Found]) -> None:
        """Sorts by image id, decides splits, applies the limit; `UserError` for an id twice, or one that
        is no UTF-8, which no manifest could hold."""
        listing = sorted(found, key=lambda image: image.image_id)
        for image in listing:
            if any("\ud800" <= letter <= "\udfff" for letter in image.image_id):
                raise UserError(
                    f"the source {self.name!r} has an image whose name, {image.image_id!r}, is no UTF-8: "
                    "rename the file or its folder"
                )
        for one, two in pairwise(listing):
            if one.image_id == two.image_id:
                raise UserError(
                    f"two images of the source {self.name!r} share the id {one.image_id!r}: "
                    "rename one of their files or folders"
                )
        ids = [image.image_id for image in listing]
        splits = decide_splits(
            ids, [image.split for image in listing], self.val_fraction, self.seed
        )
        keep: Iterable[int] = range(len(ids))
        if self.n_images is not None:
            keep = limit_images(ids, splits, self.n_images, self.seed)
        for number in keep:
            image = listing[number]
            self.items.append(ImageItem(ids[number], splits[number], image.label, image.path))
            self._n_bytes.append(image.n_bytes)

    @abstractmethod
    def load(self, item: ImageItem) -> Image.Image:
        """The image in mode RGB; raises `BrokenImage`, a `UserError`, that names its path."""

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """The subclass's own keyword arguments, such that JSON can hold them."""

    def mask(self, item: ImageItem) -> UInt8[np.ndarray, "h w"] | None:
        """Class per pixel at the image's size, 255 where there is none; None without masks."""
        return None

    def content(self) -> dict[str, Any]:
        """What determines the pixels and labels beyond the listing; part of the fingerprint."""
        return {}

    def split(self, which: str) -> list[ImageItem]:
        """The items of one split, or of all but "train" for "heldout", in the order of `items`."""
        if which == "heldout":
            return [item for item in self.items if item.split != "train"]
        if which not in SPLITS:
            raise ValueError(f"which is {which!r}; choose 'train', 'heldout', 'val' or 'test'")
        return [item for item in self.items if item.split == which]

    def try_load(self, item: ImageItem) -> Image.Image | BrokenImage:
        """The image, or its error unraised, which a data loader's worker can send back."""
        try:
            return self.load(item)
        except BrokenImage as error:
            return error

    def report_broken(self, item: ImageItem, error: BrokenImage) -> None:
        """Raises the error under on_error="raise", otherwise enters the image in `n_skipped` once.

        To be called in the main process, whose list the manifest is written from.
        """
        if self.on_error == "raise":
            raise error
        if all(entry["image_id"] != item.image_id for entry in self.n_skipped):
            self.n_skipped.append({"image_id": item.image_id, "reason": error.reason})

    def load_or_skip(self, item: ImageItem) -> Image.Image | None:
        """The image, or None where it is broken and on_error="skip" (it is then in `n_skipped`)."""
        image = self.try_load(item)
        if isinstance(image, BrokenImage):
            self.report_broken(item, image)
            return None
        return image

    def fingerprint(self) -> dict[str, Any]:
        """What determines the content: equal for equal images, wherever they are stored.

        The digest covers id, split, label and byte size of every item. `on_error` is left out: it
        changes what is refused, not what an image is.
        """
        digest = hashlib.sha256()
        for item, n_bytes in zip(self.items, self._n_bytes, strict=True):
            digest.update(os.fsencode(item.image_id))
            digest.update(f"\0{item.split}\0{item.label}\0{n_bytes}\n".encode())
        return {
            "kind": self.kind,
            "n_images": len(self.items),
            "digest": digest.hexdigest(),
            "class_names": self.class_names,
            **self.content(),
        }

    def spec(self) -> dict[str, Any]:
        """`kind` and keyword arguments, from which `source_from_spec` rebuilds the source."""
        return {
            "kind": self.kind,
            **self.options(),
            "n_images": self.n_images,
            "val_fraction": self.val_fraction,
            "on_error": self.on_error,
            "seed": self.seed,
        }


def short_name(parts: list[str]) -> str:
    """Up to three names joined by "+", more as the first and a count; fit for a folder's name."""
    names = [part.replace("/", "-") for part in parts]
    return "+".join(names) if len(names) <= 3 else f"{names[0]}+{len(names) - 1}more"
