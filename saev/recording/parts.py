"""State of a recording on disk: which shards are done, and the manifest they add up to."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from datamodules.activations.format import (
    MANIFEST_NAME,
    PARTS_DIR,
    Manifest,
    ShardInfo,
    disk_error,
    write_json,
)
from saev.errors import UserError


@dataclass(frozen=True)
class Part:
    """What is known of a finished shard; its file appears after the tar."""

    shard: ShardInfo
    precision: str
    """The arithmetic it was computed in: "32" or "bf16"."""
    skipped: list[dict[str, str]]
    """Broken images of this shard: image_id, reason."""
    norm_histogram: dict[int, int]

    def write(self, folder: Path) -> None:
        """Declares the shard finished."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True, ensure_ascii=False)
        write_json(_part_path(folder, self.shard.name), text)

    @classmethod
    def read(cls, folder: Path, name: str, precision: str) -> Part | None:
        """None where the shard has to be written: absent, not whole, or of other arithmetic."""
        try:
            fields = json.loads(_part_path(folder, name).read_text())
            histogram = {int(key): n for key, n in fields.pop("norm_histogram").items()}
            part = cls(ShardInfo(**fields.pop("shard")), norm_histogram=histogram, **fields)
            n_bytes = (folder / name).stat().st_size
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return part if part.precision == precision and n_bytes == part.shard.n_bytes else None


def _part_path(folder: Path, shard_name: str) -> Path:
    return folder / PARTS_DIR / f"{shard_name}.json"


def temporary_path(folder: Path, shard_name: str) -> Path:
    """Where a shard is written before it is whole; what a killed recording left is overwritten."""
    return folder / PARTS_DIR / f"{shard_name}.tmp"


def make_folder(folder: Path) -> None:
    """An activation folder with nothing in it; raises UserError where that is impossible."""
    try:
        (folder / PARTS_DIR).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, folder) from error


def is_complete(folder: Path, precision: str) -> bool:
    """Whether there is a readable manifest, and every shard it names, in its size.

    Raises UserError if it was recorded in another ``precision`` (other than "auto").
    """
    if not (folder / MANIFEST_NAME).is_file():
        return False
    manifest = Manifest.read(folder)
    if precision not in ("auto", manifest.recording["precision"]):
        raise UserError(
            f"{folder} was recorded with precision={manifest.recording['precision']}: delete it to "
            f"record with precision={precision}, or use record.precision=auto to take what is there."
        )
    for shard in manifest.shards:
        path = folder / shard.name
        if not path.is_file() or path.stat().st_size != shard.n_bytes:
            return False
    return True


@contextmanager
def locked(folders: Sequence[Path]) -> Iterator[None]:
    """Holds these folders against another process that records the same; waits while it does.

    What a killed recording had not finished is removed from them.
    """
    with ExitStack() as stack:
        for folder in sorted(folders):
            lock = FileLock(folder / PARTS_DIR / "lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                print(f"waiting for the process that records {folder} …", file=sys.stderr)  # noqa: T201
                lock.acquire()
            stack.callback(lock.release)
            for leftover in folder.glob("**/*.tmp"):
                leftover.unlink()
        yield


def training_histogram(folder: Path, parts: Sequence[Part]) -> Counter[int]:
    """Norms of all training tokens; raises UserError where there are none."""
    histogram: Counter[int] = Counter()
    for part in parts:
        if part.shard.split == "train":
            histogram.update(part.norm_histogram)
    if not histogram:
        raise UserError(
            f"There is no usable training image for {folder}: check images.roots and the list of "
            "skipped images."
        )
    return histogram


def skipped_images(parts: Sequence[Part], before: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each image left out, while recording or already by the source, once, sorted by its id."""
    entries = [*before, *(entry for part in parts for entry in part.skipped)]
    return sorted({e["image_id"]: e for e in entries}.values(), key=lambda e: e["image_id"])
