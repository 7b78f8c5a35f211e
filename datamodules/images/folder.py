"""Folders of image files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from datamodules.images.base import Found, ImageItem, ImageSource, short_name
from datamodules.images.decode import decode_image
from datamodules.images.layout import find_sections, named_roots, no_images, walk_images


class FolderImages(ImageSource):
    """Every image below one or more folders, sub-folders included.

    An image's id is its root's name and its path below it. `train`, `val` (or `validation`)
    and `test` sub-folders are splits; a root without them holds out `val_fraction`. In a
    segmentation folder (`images/` beside `masks/`) only the images count.

    Args:
        roots: folders, or a single one.
        labels: "folder" takes the first sub-folder under root or split as class (the union over all
            roots, sorted; images outside a sub-folder have no label); "none" gives no labels.
        n_images: limit over all splits, whose proportions stay; None for all.
        val_fraction: share held out of each root that has no splits of its own.
        on_error: "raise" refuses a broken image, "skip" leaves it out and lists it.
        seed: decides which images are held out and which remain under the limit.

    Raises:
        UserError: a root that is missing or empty, two roots of one name, images beside split
            folders.
        ValueError: an argument outside what is allowed.
    """

    kind = "folder"

    def __init__(
        self,
        roots: str | Sequence[str],
        labels: str = "folder",
        *,
        n_images: int | None = None,
        val_fraction: float = 0.1,
        on_error: str = "raise",
        seed: int = 0,
    ) -> None:
        super().__init__(n_images=n_images, val_fraction=val_fraction, on_error=on_error, seed=seed)
        if labels not in ("folder", "none"):
            raise ValueError(f"labels is {labels!r}; choose 'folder' or 'none'")
        self.labels = labels
        self.roots = named_roots(roots)
        self.name = short_name(list(self.roots))
        files = [file for name, root in self.roots.items() for file in _list_root(name, root)]
        if labels == "folder":
            names = {file.class_name for file in files if file.class_name is not None}
            self.class_names = sorted(names) or None
        numbers = {name: number for number, name in enumerate(self.class_names or [])}
        self._settle(
            Found(
                f"{file.root}/{file.path}",
                file.split,
                numbers.get(file.class_name) if file.class_name is not None else None,
                file.path,
                file.n_bytes,
            )
            for file in files
        )

    def file(self, item: ImageItem) -> Path:
        """Where the image lies on disk."""
        assert item.path is not None
        return self.roots[item.image_id.removesuffix(f"/{item.path}")] / item.path

    def load(self, item: ImageItem) -> Image.Image:
        """Raises `BrokenImage` with the file's full path."""
        path = self.file(item)
        return decode_image(path, str(path))

    def options(self) -> dict[str, Any]:
        return {"roots": [str(root) for root in self.roots.values()], "labels": self.labels}


class _File(NamedTuple):
    root: str
    path: str  # below the root
    split: str | None
    class_name: str | None
    n_bytes: int


def _list_root(name: str, root: Path) -> list[_File]:
    files = []
    for section in find_sections(root):
        prefix = section.images.relative_to(root).as_posix() + "/"
        for path, n_bytes in walk_images(section.images):
            folder, below, _ = path.partition("/")
            full = prefix.removeprefix("./") + path
            files.append(_File(name, full, section.split, folder if below else None, n_bytes))
    if not files:
        raise no_images(root)
    return files
