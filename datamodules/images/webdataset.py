"""WebDataset image tars, read in any order."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from datamodules.images.base import BrokenImage, Found, ImageItem, ImageSource, short_name
from datamodules.images.decode import IMAGE_SUFFIXES, decode_image
from datamodules.images.layout import SPLIT_FOLDERS
from datamodules.images.tars import (
    TarMember,
    expand_urls,
    index_tar,
    localize,
    read_member,
    tar_stem,
)
from saev.errors import UserError, first_line
from saev.files import a_text, shown

Label = int | str | None

MOST_CLASSES = 100_000
"""That numbers alone may count: a larger one is rather an id in the place of a class."""


class WebDatasetImages(ImageSource):
    """Samples of WebDataset tars: files that share a key (their path up to the first dot).

    An image's id is its tar's name and its key. A tar whose name contains train, val, validation or
    test as a word belongs to that split. The label is in `<key>.cls` or under `label_key` of
    `<key>.json`: a number, or a name. Members of other kinds, pickles among them, are never opened.

    Args:
        urls: path, glob or brace pattern, http(s)://, s3:// or pipe: URL, or a list of those.
        image_key: suffix of the image within a sample, e.g. "jpg"; None takes the only image.
        label_key: entry of `<key>.json` with the label.
        classes: class names that number labels index; None names classes after the labels.
        cache_dir: where remote tars are kept.
        n_images: limit over all splits, whose proportions stay; None for all.
        val_fraction: share held out of tars whose name states no split.
        on_error: "raise" refuses a broken image, "skip" leaves it out and lists it.
        seed: decides which images are held out and which remain under the limit.

    Raises:
        UserError: a tar that is missing, unreachable, cut short or compressed, or has a member
            whose name leads outside; no images; a label that is no class; two samples with one id.
        ValueError: an argument outside what is allowed.
    """

    kind = "webdataset"

    def __init__(
        self,
        urls: str | Sequence[str],
        image_key: str | None = None,
        label_key: str = "label",
        classes: Sequence[str] | None = None,
        cache_dir: str = "outputs/datasets/webdataset",
        *,
        n_images: int | None = None,
        val_fraction: float = 0.1,
        on_error: str = "raise",
        seed: int = 0,
    ) -> None:
        super().__init__(n_images=n_images, val_fraction=val_fraction, on_error=on_error, seed=seed)
        self.image_key, self.label_key = image_key, label_key
        self.classes = None if classes is None else list(classes)
        self.cache_dir = Path(cache_dir).absolute()
        self.urls = expand_urls(urls)
        self.name = short_name([tar_stem(url) for url in self.urls])
        samples = [sample for url in self.urls for sample in self._samples(url)]
        if not samples:
            raise UserError(
                f"the tars of {self.urls[0]} hold no images"
                + (f" with the suffix {image_key!r}: set images.image_key" if image_key else "")
            )
        self._places = {sample.image_id: sample.place for sample in samples}
        self.class_names, labels = _number_labels(samples, self.classes)
        self._settle(
            Found(sample.image_id, sample.split, label, sample.place.path, sample.place.n_bytes)
            for sample, label in zip(samples, labels, strict=True)
        )

    def _samples(self, url: str) -> list["_Sample"]:
        tar = localize(url, self.cache_dir)
        stem, split = tar_stem(url), _split_of(url)
        groups: dict[str, dict[str, TarMember]] = {}
        for member in index_tar(tar, url):
            folder, _, base = member.name.rpartition("/")
            key, _, suffix = base.partition(".")
            if not key or not suffix or key.startswith("__"):  # dotfiles; webdataset's own notes
                continue
            group = groups.setdefault(f"{folder}/{key}" if folder else key, {})
            if suffix.lower() in group:
                raise UserError(
                    f"the tar {url} holds {member.name!r} twice: write it with one sample per key"
                )
            group[suffix.lower()] = member
        samples = []
        for key, group in groups.items():
            image = self._image_of(group, f"{url} » {key}")
            if image is not None:
                place = _Place(
                    tar, image.name, image.offset, image.n_bytes, f"{url} » {image.name}"
                )
                label = self._label_of(group, f"{url} » {key}")
                samples.append(_Sample(f"{stem}/{key}", split, label, place))
        return samples

    def _image_of(self, group: dict[str, TarMember], where: str) -> TarMember | None:
        if self.image_key is not None:
            return group.get(self.image_key.lower().removeprefix("."))
        images = [suffix for suffix in group if f".{suffix}" in IMAGE_SUFFIXES]
        if len(images) > 1:
            raise UserError(
                f"the sample {where} has several images ({', '.join(images)}): say which one with "
                "images.image_key"
            )
        return group[images[0]] if images else None

    def _label_of(self, group: dict[str, TarMember], where: str) -> Label:
        label: Any = None
        try:
            if "cls" in group:
                label = (group["cls"].text or b"").decode().strip()
            elif "json" in group:
                record = json.loads(group["json"].text or b"")
                label = record.get(self.label_key) if isinstance(record, dict) else None
        except (ValueError, RecursionError) as error:
            reason = first_line(error)
            raise UserError(f"the label of {where} cannot be read ({reason})") from error
        if label is None or (isinstance(label, int) and not isinstance(label, bool)):
            return label
        if not isinstance(label, str) or not label or a_text(1000)(label, "label"):
            raise UserError(
                f"the label of {where} is {shown(label)}: it must be a number or a name of at most "
                "1,000 characters"
            )
        return int(label) if re.fullmatch(r"-?[0-9]+", label) else label

    def load(self, item: ImageItem) -> Image.Image:
        """Raises `BrokenImage` with tar and member."""
        place = self._places[item.image_id]
        try:
            content = read_member(place.tar, place.offset, place.n_bytes)
        except OSError as error:
            raise BrokenImage(place.where, error.strerror or "unreadable") from error
        return decode_image(content, place.where)

    def options(self) -> dict[str, Any]:
        return {
            "urls": self.urls,
            "image_key": self.image_key,
            "label_key": self.label_key,
            "classes": self.classes,
            "cache_dir": str(self.cache_dir),
        }


class _Place(NamedTuple):
    tar: Path
    path: str  # in the tar
    offset: int
    n_bytes: int
    where: str  # for messages


class _Sample(NamedTuple):
    image_id: str
    split: str | None
    label: Label
    place: _Place


def _split_of(url: str) -> str | None:
    words = re.split(r"[^a-z]+", tar_stem(url).lower())
    return next((SPLIT_FOLDERS[word] for word in words if word in SPLIT_FOLDERS), None)


def _number_labels(
    samples: list[_Sample], classes: list[str] | None
) -> tuple[list[str] | None, list[int | None]]:
    """Class names and an index into them per sample."""
    found = {sample.label for sample in samples if sample.label is not None}
    by_name = any(isinstance(label, str) for label in found)
    names = classes
    if names is None and by_name:  # one name among numbers makes names of all
        names = sorted({str(label) for label in found})
    elif names is None and found:
        largest = max(int(label) for label in found)
        if largest >= MOST_CLASSES:
            where = next(sample.place.where for sample in samples if sample.label == largest)
            raise UserError(
                f"the label {shown(largest)} of {where} is a number beyond {MOST_CLASSES:,}, rather "
                "an id than a class: set images.classes to the names that numbers stand for"
            )
        names = [str(number) for number in range(largest + 1)]
    numbers = {name: number for number, name in enumerate(names or [])}
    labels: list[int | None] = []
    for sample in samples:
        label = sample.label
        if isinstance(label, str) or (by_name and classes is None and label is not None):
            number = numbers.get(str(label))
        else:
            number = label
        if label is not None and (number is None or not 0 <= number < len(numbers)):
            raise UserError(
                f"the label {shown(label)} of {sample.place.where} is none of the {len(numbers)} "
                "classes: correct images.classes"
            )
        labels.append(number)
    return names, labels
