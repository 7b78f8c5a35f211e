"""Layout inside one activation tar: the only code that writes or reads samples.

Shape legend: t tokens of one image, d width.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from webdataset.tariterators import group_by_keys, tar_file_expander
from webdataset.writer import TarWriter

from datamodules.activations.format import READ_BYTES, ShardInfo, disk_error, join, open_read
from saev.errors import UserError

ACTS = "acts.npy"
META = "json"
REPAIR = "delete it and run saev.record again with the same settings, which writes only it anew"


class Sample(NamedTuple):
    """The activations of one image."""

    acts: np.ndarray
    """(t, d) in the manifest's dtype."""
    meta: dict[str, Any]
    """image_id, label, split, path, tokens (positions on the token axis, None for all)."""


class ShardWriter:
    """Writes one tar under a temporary name; ``close`` makes it appear, whole, under its own.

    Equal samples give equal bytes: no times, no owners. Used as a context manager, an exception
    inside leaves nothing behind. A full disk raises UserError.
    """

    def __init__(self, path: Path, temporary: Path) -> None:
        self.path, self.temporary = path, temporary
        try:
            self._file = _HashingFile(temporary)
        except OSError as error:
            raise disk_error(error, path) from error
        self._tar = TarWriter(
            self._file,  # pyright: ignore[reportArgumentType]  # needs a write method and no more
            user="",
            group="",
            mode=0o644,
            encoder=False,
            mtime=0,
            compress=False,
        )

    @property
    def n_bytes(self) -> int:
        """Written so far; after ``close`` the size of the tar."""
        return self._file.n_bytes

    @property
    def sha256(self) -> str:
        """Of what was written so far; after ``close`` of the tar."""
        return self._file.digest.hexdigest()

    def write(self, key: str, acts: np.ndarray, meta: dict[str, Any]) -> None:
        """Appends one image; ``key`` must be unique in the tar and hold no dot or slash."""
        buffer = io.BytesIO()
        np.save(buffer, acts, allow_pickle=False)
        text = json.dumps(meta, ensure_ascii=False).encode()
        try:
            self._tar.write({"__key__": key, ACTS: buffer.getbuffer(), META: text})
        except OSError as error:
            raise disk_error(error, self.path) from error

    def close(self) -> None:
        """Finishes the tar and renames it into place."""
        try:
            self._tar.close()
            self._file.finish()
            self.temporary.replace(self.path)
        except OSError as error:
            self.abandon()
            raise disk_error(error, self.path) from error

    def abandon(self) -> None:
        """Removes the unfinished file."""
        self._file.discard()
        self.temporary.unlink(missing_ok=True)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()


class _HashingFile:
    """A file open for writing that hashes what passes through."""

    def __init__(self, path: Path) -> None:
        self.digest = hashlib.sha256()
        self.n_bytes = 0
        self._chunks = bytearray()
        self._file = path.open("wb", buffering=0)

    def write(self, data: bytes) -> int:
        """Collects tarfile's 10 kB blocks into larger ones for the hash and the disk."""
        self._chunks += data
        self.n_bytes += len(data)
        if len(self._chunks) >= READ_BYTES:
            self._drain()
        return len(data)

    def _drain(self) -> None:
        chunk, self._chunks = self._chunks, bytearray()
        self.digest.update(chunk)
        rest = memoryview(chunk)
        while rest:
            rest = rest[self._file.write(rest) :]

    def finish(self) -> None:
        """Everything is on the disk when this returns."""
        self._drain()
        os.fsync(self._file.fileno())
        self._file.close()

    def discard(self) -> None:
        """Closes without writing what is still held."""
        self._chunks.clear()
        self._file.close()


def iter_samples(
    location: str | Path, shard: ShardInfo, *, checksum: bool = False
) -> Iterator[Sample]:
    """The images of one tar in order, read as a stream from a path or a URL.

    With ``checksum`` what passes through is hashed, and compared with the manifest at the tar's end.

    Raises UserError naming the tar when it is missing, cut off or damaged, when a member's name
    leaves the folder, or when it does not hold what the manifest says.
    """
    path = join(location, shard.name)
    n_images = n_tokens = 0
    try:
        with open_read(path) as opened:
            file = _HashedReading(opened) if checksum else opened
            files = _checked_names(tar_file_expander([{"url": path, "stream": file}]), path)
            for fields in group_by_keys(files):
                acts = decode_npy(fields[ACTS])
                n_images += 1
                n_tokens += len(acts)
                yield Sample(acts, json.loads(fields[META]))
            if isinstance(file, _HashedReading) and file.sha256_to_end() != shard.sha256:
                raise UserError(f"{path} has changed since it was recorded; {REPAIR}.")
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {REPAIR}.") from None
    except (tarfile.TarError, OSError, EOFError, ValueError, KeyError) as error:
        raise UserError(f"{path} is damaged ({_first(error)}); {REPAIR}.") from error
    if (n_images, n_tokens) != (shard.n_images, shard.n_tokens):
        raise UserError(
            f"{path} is cut off or not the tar of this manifest: it holds {n_images} images with "
            f"{n_tokens} tokens, the manifest says {shard.n_images} and {shard.n_tokens}; {REPAIR}."
        )


class _HashedReading:
    """A stream that hashes what is read of it."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file, self._digest = file, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._digest.update(data)
        return data

    def peek(self, size: int = 0) -> bytes:
        return self._file.peek(size)

    def sha256_to_end(self) -> str:
        """Of everything, once the rest has been read: a tar ends in blocks that nobody asks for."""
        while self.read(READ_BYTES):
            pass
        return self._digest.hexdigest()


def _checked_names(files: Iterator[dict[str, Any]], path: str) -> Iterator[dict[str, Any]]:
    for file in files:
        name = PurePosixPath(file.get("fname", "").replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts:
            raise UserError(
                f"{path} has a member that points outside of it ({file['fname']!r}); "
                "it was not written by saev: do not use it."
            )
        yield file


def decode_npy(data: bytes) -> np.ndarray:
    """A (t, d) array of its own, writable; raises ValueError when it is not one."""
    n_header = 10 + int.from_bytes(data[8:10], "little")
    shape, dtype = _npy_header(data[:n_header])
    # bytearray: torch refuses to share memory that numpy marks read-only
    flat = np.frombuffer(bytearray(data), dtype, shape[0] * shape[1], n_header)
    return flat.reshape(shape)


@lru_cache(maxsize=64)  # nearly all images of a recording have the same one
def _npy_header(header: bytes) -> tuple[tuple[int, int], np.dtype]:
    file = io.BytesIO(header)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"npy version {version}")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject or fortran_order or len(shape) != 2:
        raise ValueError(f"an array of {dtype} with shape {shape}, not rows of numbers")
    return (shape[0], shape[1]), dtype


def _first(error: Exception) -> str:
    """The message alone: webdataset appends the stream and the URL to an exception's arguments."""
    return str(error.args[0]).split(" @ ")[0] if error.args else type(error).__name__
