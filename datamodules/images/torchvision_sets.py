"""Torchvision data sets as image sources; they download themselves."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from jaxtyping import UInt8
from PIL import Image
from torchvision import datasets

from datamodules.images.base import Found, ImageItem, ImageSource
from datamodules.images.decode import decode_image
from saev.errors import UserError


class SetPart(NamedTuple):
    """One split of a data set as torchvision builds it."""

    split: str  # ours
    arguments: dict[str, Any]  # torchvision's
    n_images: int  # as published; tells a whole copy from an interrupted one


class DownloadableSet(NamedTuple):
    """Where torchvision keeps what we need of one data set."""

    constructor: Callable[..., Any]
    parts: tuple[SetPart, ...]
    labels: str  # attribute of the torchvision data set
    paths: str | None  # attribute with the image files; None where images are arrays in memory
    arguments: dict[str, Any]


def _cifar(constructor: Callable[..., Any]) -> DownloadableSet:
    parts = SetPart("train", {"train": True}, 50_000), SetPart("test", {"train": False}, 10_000)
    return DownloadableSet(constructor, parts, "targets", None, {})


def _splits(**n_images: int) -> tuple[SetPart, ...]:
    ours = {"trainval": "train"}
    return tuple(SetPart(ours.get(name, name), {"split": name}, n) for name, n in n_images.items())


SETS = {
    "imagenette": DownloadableSet(
        datasets.Imagenette,
        _splits(train=9469, val=3925),
        "_samples",
        "_samples",
        {"size": "320px"},
    ),
    "oxford_pet": DownloadableSet(
        datasets.OxfordIIITPet, _splits(trainval=3680, test=3669), "_labels", "_images", {}
    ),
    "cifar10": _cifar(datasets.CIFAR10),
    "cifar100": _cifar(datasets.CIFAR100),
    "flowers102": DownloadableSet(
        datasets.Flowers102, _splits(train=1020, val=1020, test=6149), "_labels", "_image_files", {}
    ),
    "food101": DownloadableSet(
        datasets.Food101, _splits(train=75_750, test=25_250), "_labels", "_image_files", {}
    ),
}
"""Splits and sizes as the data sets' authors publish them. Imagenette's edition of 320 pixels
(short side) is large enough for models of 224 and a fifth of the full one to download."""


class TorchvisionImages(ImageSource):
    """A public data set with its own splits, downloaded once; val and test are held out.

    Args:
        dataset: a key of `SETS`.
        root: folder that data sets are kept in.
        download: fetch the data set when `root` does not hold it.
        n_images: limit over all splits, whose proportions stay; None for all.
        val_fraction: 0, since these data sets bring their own splits.
        on_error: "raise" refuses a broken image, "skip" leaves it out and lists it.
        seed: decides which images remain under the limit.

    Raises:
        UserError: the data set is neither there nor to be had, or incomplete.
        ValueError: an argument outside what is allowed.
    """

    kind = "torchvision"

    def __init__(
        self,
        dataset: str,
        root: str,
        download: bool = True,
        *,
        n_images: int | None = None,
        val_fraction: float = 0.0,
        on_error: str = "raise",
        seed: int = 0,
    ) -> None:
        super().__init__(n_images=n_images, val_fraction=val_fraction, on_error=on_error, seed=seed)
        if dataset not in SETS:
            raise ValueError(f"dataset is {dataset!r}; choose one of {', '.join(SETS)}")
        if val_fraction:
            raise ValueError(
                f"val_fraction is {val_fraction}, but {dataset} brings its own splits; leave it "
                "at 0"
            )
        self.dataset, self.download = dataset, download
        self.root = Path(root).expanduser().absolute()
        self.name = dataset
        self._places: dict[str, Path | UInt8[np.ndarray, "h w 3"]] = {}
        found: list[Found] = []
        for part in SETS[dataset].parts:
            whole = self._open(SETS[dataset], part)
            self.class_names = [_class_name(name) for name in whole.classes]
            found += self._find(SETS[dataset], part, whole)
        self._settle(found)

    def _open(self, known: DownloadableSet, part: SetPart) -> Any:
        """The torchvision data set of one split, downloaded if need be."""
        arguments = {**known.arguments, **part.arguments, "root": str(self.root)}
        try:
            return known.constructor(**arguments)
        except (RuntimeError, OSError) as error:
            if not self.download:
                raise UserError(
                    f"{self.root} does not hold {self.dataset}: set images.download=true, or "
                    "images.root to the folder that does"
                ) from error
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with FileLock(self.root / f".{self.dataset}.lock"):  # ranks start at the same moment
                return known.constructor(**arguments, download=True)
        except Exception as error:  # network, checksum, disk: torchvision passes on what it meets
            reason = str(error).strip().rstrip(".") or type(error).__name__
            raise UserError(
                f"{self.dataset} is not in {self.root} and cannot be downloaded ({reason}): "
                "connect to the network, set images.root to a folder that has it, or use your own "
                "images with images=folder images.roots=[/path/to/images]"
            ) from error

    def _find(self, known: DownloadableSet, part: SetPart, whole: Any) -> list[Found]:
        labels = _column(getattr(whole, known.labels), last=True)
        if len(labels) != part.n_images:
            raise self._incomplete(f"{len(labels):,} of {part.n_images:,} {part.split} images")
        if known.paths is None:
            ids = [f"{part.split}/{number:06d}" for number in range(len(labels))]
            self._places |= {
                f"{self.dataset}/{name}": pixels
                for name, pixels in zip(ids, whole.data, strict=True)
            }
            return [
                Found(f"{self.dataset}/{name}", part.split, int(label), None, pixels.nbytes)
                for name, label, pixels in zip(ids, labels, whole.data, strict=True)
            ]
        found = []
        for file, label in zip(_column(getattr(whole, known.paths)), labels, strict=True):
            path = Path(file)
            below = path.relative_to(self.root).as_posix()
            try:
                n_bytes = path.stat().st_size
            except OSError as error:
                raise self._incomplete(f"no {below}") from error
            image_id = f"{self.dataset}/{below}"
            self._places[image_id] = path
            found.append(Found(image_id, part.split, int(label), below, n_bytes))
        return found

    def _incomplete(self, what: str) -> UserError:
        return UserError(
            f"the copy of {self.dataset} in {self.root} is incomplete (it has {what}): delete it "
            "and start again to download it anew"
        )

    def load(self, item: ImageItem) -> Image.Image:
        """Raises `BrokenImage` with the file's full path."""
        place = self._places[item.image_id]
        if isinstance(place, Path):
            return decode_image(place, str(place))
        return Image.fromarray(place)

    def options(self) -> dict[str, Any]:
        return {"dataset": self.dataset, "root": str(self.root), "download": self.download}

    def content(self) -> dict[str, Any]:
        """Which data set it is: byte sizes tell nothing where images are arrays."""
        return {"dataset": self.dataset}


def _column(values: Sequence[Any], last: bool = False) -> list[Any]:
    """The values, or of (path, label) pairs one side."""
    return [value[1 if last else 0] if isinstance(value, tuple) else value for value in values]


def _class_name(name: str | tuple[str, ...]) -> str:
    """Imagenette gives synonyms; the first is the usual name. CIFAR-100 joins words by "_"."""
    return (name if isinstance(name, str) else name[0]).replace("_", " ")
