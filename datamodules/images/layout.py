"""Layout of image folders: roots, splits, segmentation folders, files."""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from datamodules.images.decode import IMAGE_SUFFIXES
from saev.errors import UserError

SPLIT_FOLDERS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
"""Names of sub-folders that are splits, and the split each one is."""
GENERIC = frozenset({*SPLIT_FOLDERS, "images"})
"""Folder names that do not tell one data set from another."""


DEEPEST = 200
"""Folders within folders."""


class Section(NamedTuple):
    """A folder of images that belong to one split."""

    split: str | None  # None: the root has no splits of its own
    images: Path
    masks: Path | None  # beside the images in a segmentation folder


class ImageFile(NamedTuple):
    """An image file on disk."""

    path: str  # relative to the folder listed, with "/" between its parts
    n_bytes: int  # 0 for a link that leads nowhere


def named_roots(roots: str | Sequence[str]) -> dict[str, Path]:
    """Absolute roots under the names that image ids begin with.

    A root is named by its folder; `train`, `val`, `test` and `images` take the folders above along
    ("caltech26/train"). Raises `UserError` without roots, when one does not exist, or when two
    share a name.
    """
    given = [roots] if isinstance(roots, str) else list(roots)
    if not given:
        raise UserError("no image folders are given: set images.roots=[/path/to/images]")
    named: dict[str, Path] = {}
    for root in given:
        path = Path(os.path.abspath(Path(root).expanduser()))  # noqa: PTH100 - keeps links' names
        if not path.is_dir():
            what = "is not a folder" if path.exists() else "does not exist"
            raise UserError(f"the image folder {path} {what}: set images.roots=[…] to folders")
        name = _root_name(path)
        if name in named:
            raise UserError(
                f"the image folders {named[name]} and {path} share the name {name!r}, which image "
                "ids begin with: rename one, or give it as a link with another name"
            )
        named[name] = path
    return named


def _root_name(path: Path) -> str:
    parts = [path.name or "root"]
    for parent in path.parents:
        if parts[0] not in GENERIC or not parent.name:
            break
        parts.insert(0, parent.name)
    return "/".join(parts)


def find_sections(root: Path) -> list[Section]:
    """The parts of a root: one per split folder, else one; `images/` alone beside `masks/`.

    Raises `UserError` for images beside split folders, whose split nobody can tell.
    """
    sections = []
    for split, folder in _split_folders(root) or [(None, root)]:
        images, masks = folder / "images", folder / "masks"
        if not (images.is_dir() and masks.is_dir()):
            sections.append(Section(split, folder, None))
            continue
        inner = _split_folders(images) if split is None else []
        sections += [Section(name, sub, masks / sub.name) for name, sub in inner]
        if not inner:
            sections.append(Section(split, images, masks))
    return sections


def _split_folders(folder: Path) -> list[tuple[str, Path]]:
    found = [
        (split, folder / name) for name, split in SPLIT_FOLDERS.items() if (folder / name).is_dir()
    ]
    if found:
        names = {path.name for _, path in found}
        stray = next((f for f in walk_images(folder, leave_out=names)), None)
        if stray is not None:
            raise UserError(
                f"{folder} is divided into {', '.join(sorted(names))} but also holds {stray.path}, "
                "which belongs to none of them: move it into one of these folders"
            )
    return found


def walk_images(
    folder: Path,
    leave_out: set[str] | None = None,
    _above: frozenset[tuple[int, int]] = frozenset(),
) -> Iterator[ImageFile]:
    """All image files below a folder, links followed, names with a leading dot left out.

    Unsorted. `leave_out` names entries of `folder` itself to pass over. What is no regular file (a
    pipe, a dead link) has 0 bytes here and is refused by name when it is loaded.
    """
    if len(_above) > DEEPEST:
        raise UserError(f"{folder} lies more than {DEEPEST} folders deep: give a root further down")
    try:
        status = folder.stat()
        entries = list(os.scandir(folder))
    except OSError as error:
        raise UserError(
            f"the image folder {folder} cannot be listed ({error.strerror}): check its permissions"
        ) from error
    here = (status.st_dev, status.st_ino)
    if here in _above:  # a link back to a folder above
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name in (leave_out or ()):
            continue
        try:
            status = entry.stat()
        except OSError:  # a link that leads nowhere, or to itself
            status = None
        if status is not None and stat.S_ISDIR(status.st_mode):
            for file in walk_images(Path(entry.path), None, _above | {here}):
                yield ImageFile(f"{entry.name}/{file.path}", file.n_bytes)
        elif entry.name.lower().endswith(IMAGE_SUFFIXES):
            is_file = status is not None and stat.S_ISREG(status.st_mode)
            yield ImageFile(entry.name, status.st_size if status and is_file else 0)


def no_images(root: Path) -> UserError:
    """The error for a root without a single image."""
    suffixes = ", ".join(suffix[1:] for suffix in IMAGE_SUFFIXES)
    return UserError(
        f"the image folder {root} holds no images ({suffixes}): set images.roots=[…] to folders "
        "that do"
    )
