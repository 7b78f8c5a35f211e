"""Verification of tars against their manifest."""

from __future__ import annotations

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
