"""Verification of tars against their manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from datamodules.activations.format import Manifest, ShardInfo, is_url, join, open_read
from datamodules.activations.tar import REPAIR
from datamodules.progress import progress_bar, progress_bars
from saev.errors import UserError
from saev.files import file_sha256


def verify(location: str | Path, *, checksums: bool = True, progress: bool = True) -> list[str]:
    """One sentence per shard that is missing, of another size or (``checksums``) altered.

    Reads the manifest first and raises its UserError. Without ``checksums`` only sizes are
    compared, and at a URL nothing is.
    """
    shards = Manifest.read(location).shards
    faults = []
    with (
        progress_bars(progress and checksums),
        progress_bar("checking shards", len(shards), unit="shards") as advance,
    ):
        for shard in shards:
            faults.append(_fault(location, shard, checksums))
            advance(1)
    return [fault for fault in faults if fault]


Stamp = tuple[int, int, int, int]


def stamps(location: str | Path, shards: Sequence[ShardInfo]) -> dict[str, Stamp]:
    """Shard → number on the device, size, times of the last change of content and of anything.

    No write leaves all of them as they were. Empty at a URL; a shard that is missing has none.
    """
    if is_url(location):
        return {}
    found = {shard.name: stamp(join(location, shard.name)) for shard in shards}
    return {name: one for name, one in found.items() if one is not None}


def stamp(path: str) -> Stamp | None:
    """Of one local file; None where there is none."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def has_changed(location: str | Path, shard: ShardInfo, stamps: Mapping[str, Stamp]) -> bool:
    """Whether a verified tar has been written to since its stamp was taken."""
    return shard.name in stamps and stamp(join(location, shard.name)) != stamps[shard.name]


def require_intact(location: str | Path, *, checksums: bool = True, progress: bool = True) -> None:
    """Raises UserError naming every shard that ``verify`` finds fault with, and the remedy."""
    faults = verify(location, checksums=checksums, progress=progress)
    if faults:
        raise UserError(f"{'; '.join(faults)}; {REPAIR}.")


def _fault(location: str | Path, shard: ShardInfo, checksums: bool) -> str | None:
    path = join(location, shard.name)
    if not is_url(path):
        if not Path(path).is_file():
            return f"{path} is missing"
        n_bytes = Path(path).stat().st_size
        if n_bytes != shard.n_bytes:
            return f"{path} has {n_bytes} bytes where the manifest says {shard.n_bytes}"
    if not checksums:
        return None
    try:
        with open_read(path) as file:
            if file_sha256(file) != shard.sha256:
                return f"{path} is damaged: its SHA-256 is not the one in the manifest"
    except OSError as error:
        return f"{path} cannot be read ({error})"
    return None
