"""Folders that are made once for a whole run of tests, whichever worker asks first."""

from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

Once = Callable[[str, Callable[[Path], object]], Path]
"""Name and what fills a folder → the folder. Tests read it, or copy it and change the copy."""


def once_below(shared: Path) -> Once:
    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        shared.mkdir(exist_ok=True)
        with FileLock(shared / f"{name}.lock"):
            if not done.exists():
                folder.mkdir()
                fill(folder)
                done.touch()
        return folder

    return make
