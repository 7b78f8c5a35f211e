"""Images for ``benchmarks.peers_compared`` that are made of others: with fewer pixels, with coarser labels.

Each folder appears whole or not at all. Names of classes become folders below ``train`` and ``test``.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import yaml
from PIL import Image

GROUPS = Path(__file__).with_name("imagenet_groups.yaml")


def with_few_pixels(source: Path, folder: Path, side: int = 32) -> Path:
    """The pictures of ``source`` at ``side`` × ``side`` pixels, as small as those of CIFAR."""

    def fill(new: Path) -> None:
        for file in sorted(source.rglob("*.*")):
            if file.suffix.lower() in (".jpg", ".jpeg", ".png"):
                out = (new / file.relative_to(source)).with_suffix(".png")
                out.parent.mkdir(parents=True, exist_ok=True)
                with Image.open(file) as picture:
                    picture.convert("RGB").resize((side, side), Image.Resampling.BOX).save(out)

    return _whole(folder, fill)


def in_groups(source: Path, folder: Path) -> Path:
    """One image of each ImageNet class, sorted into coarse groups, every other image of a group a test
    image. Links to the files, which stay where they are."""
    files = sorted(source.glob("n*_*"))

    def fill(new: Path) -> None:
        for group, ranges in yaml.safe_load(GROUPS.read_text(encoding="utf-8")).items():
            members = [files[place] for one in ranges for place in places(one)]
            for number, file in enumerate(members):
                out = new / ("train", "test")[number % 2] / group / file.name
                out.parent.mkdir(parents=True, exist_ok=True)
                out.symlink_to(file.resolve())

    return _whole(folder, fill)


def places(bounds: list[int]) -> range:
    """``[first, last]`` or ``[first, last, step]``, the last included."""
    first, last, *step = bounds
    return range(first, last + 1, *step)


def _whole(folder: Path, fill: Callable[[Path], None]) -> Path:
    if not folder.is_dir():
        new = folder.with_name(f".{folder.name}")
        shutil.rmtree(new, ignore_errors=True)
        fill(new)
        new.rename(folder)
    return folder
