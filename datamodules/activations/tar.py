"""Layout inside one activation tar: the only code that writes or reads samples.

Shape legend: t tokens of one image, d width.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Generator, Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
from jaxtyping import Shaped
from webdataset.tariterators import group_by_keys
from webdataset.writer import TarWriter

from datamodules.activations.format import (
    DTYPES,
    READ_BYTES,
    Rows,
    ShardInfo,
    disk_error,
    join,
    open_read,
)
from saev.errors import UserError
from saev.files import a_list, a_text, a_whole, an_object, or_null, parse_json

ACTS = "acts.npy"
META = "json"
MOST_META_BYTES = 1 << 20
META_FIELDS = an_object(
    {"image_id": a_text()},
    {
        "label": or_null(a_whole()),
        "split": a_text(20),
        "path": or_null(a_text()),
        "tokens": or_null(a_list(a_whole())),
    },
    more=True,
)
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}
"""First bytes of what is no plain tar. A few kilobytes of these can unpack to anything."""
PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)
"""Types of a plain file."""
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
        """Appends one image; ``key`` must be unique in the tar and hold no dot or slash.

        Raises:
            UserError: a description that the reader would refuse; a full or broken disk.
        """
        if wrong := META_FIELDS(meta, ""):
            raise UserError(f"{self.path} cannot hold this image's description: {wrong}.")
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
    location: str | Path,
    shard: ShardInfo,
    rows: Rows | None = None,
    *,
    finite: bool = True,
    checksum: bool = False,
) -> Iterator[Sample]:
    """The images of one tar in order, read as a stream from a path or a URL.

    Args:
        rows: what the manifest says that every sample holds; None takes any floats.
        finite: whether values are checked; who looks at the norms anyway can do without.
        checksum: whether what passes through is hashed, and compared with the manifest at the end.

    Raises:
        UserError: naming the tar when it is missing, cut off, compressed or damaged, when a member's
            name leaves the folder, or when it does not hold what the manifest says; naming the
            image, too, where a value is not finite.
    """
    path = join(location, shard.name)
    n_images = n_tokens = 0
    try:
        with open_read(path) as opened:
            file = _HashedReading(opened) if checksum else opened
            for fields in group_by_keys(_members(file, path, shard)):
                acts = decode_npy(fields[ACTS])
                meta = parse_json(
                    bytes(fields[META]), f"{path} » {fields['__key__']}.{META}", REPAIR
                )
                _check_sample(acts, meta, rows)
                if finite and not _is_finite(acts):
                    raise not_finite(path, meta)
                n_images += 1
                n_tokens += len(acts)
                yield Sample(acts, meta)
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


def not_finite(path: str, meta: dict[str, Any]) -> UserError:
    """The error for activations that are NaN, infinite, or too large for their norm to be finite."""
    return UserError(
        f"{path} holds values of the image {meta['image_id']!r} that are not finite; {REPAIR}."
    )


def _members(
    file: io.BufferedReader | _HashedReading, path: str, shard: ShardInfo
) -> Iterator[dict[str, Any]]:
    """Plain files of a plain tar; anything else in it is refused before it is read."""
    if kind := COMPRESSED.get(file.peek(2)[:2]):
        raise UserError(
            f"{path} is compressed ({kind}), and activation tars are read as they are; unpack it."
        )
    if isinstance(file, io.BufferedReader) and isinstance(file.raw, io.FileIO):
        ended = yield from _plain_members(file, path, shard)
        if ended:
            return
    with tarfile.open(fileobj=cast("BinaryIO", file), mode="r|") as tar:  # of which it only reads
        for info in tar:
            _check_name(info.name, path)
            if info.isdir():
                continue
            if not info.isreg() or info.issparse():
                what = "sparse" if info.issparse() else "a link or device"
                raise UserError(f"{path} has a member, {info.name!r}, that is {what}; {REPAIR}.")
            _check_size(info.name, info.size, path, shard)
            data = tar.extractfile(info).read()  # type: ignore[union-attr]
            yield {"fname": info.name, "data": data, "__url__": path}
            tar.members = []  # pyright: ignore  # or a long tar's headers pile up


def _plain_members(
    file: io.BufferedReader, path: str, shard: ShardInfo
) -> Generator[dict[str, Any], None, bool]:
    """Members of a local tar as ``ShardWriter`` leaves them, without tarfile, which takes longer over
    an image than reading it. Returns whether that was all; at a header of any other kind the file is
    left there, for tarfile to go on."""
    while True:
        at = file.tell()
        header = file.read(tarfile.BLOCKSIZE)
        found = _plain_header(header)
        if found is None:
            file.seek(at)
            return at > 0 and not _is_header(header)
        name, size = found
        _check_name(name, path)
        _check_size(name, size, path, shard)
        data, n_padding = np.empty(size, np.uint8), -size % tarfile.BLOCKSIZE
        if file.readinto(data.data) < size:
            raise tarfile.ReadError("unexpected end of data")
        yield {"fname": name, "data": data, "__url__": path}
        if len(file.read(n_padding)) < n_padding:
            raise tarfile.ReadError("unexpected end of data")


def _plain_header(header: bytes) -> tuple[str, int] | None:
    """Name and size of a plain file with a short name; None for any other header."""
    if len(header) < tarfile.BLOCKSIZE or header[156:157] not in PLAIN or header[345]:
        return None
    name, size, checksum = (_up_to_nul(header[a:b]) for a, b in ((0, 100), (124, 136), (148, 156)))
    try:
        if int(checksum, 8) != sum(header) - sum(header[148:156]) + 8 * ord(" "):
            return None
        return None if name.endswith(b"/") else (name.decode(), int(size, 8))
    except ValueError:
        return None


def _up_to_nul(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _is_header(block: bytes) -> bool:
    """Whether a tar goes on here; tarfile, too, ends one where it does not."""
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:  # type: ignore[attr-defined]
        return False
    return True


def _check_name(name: str, path: str) -> None:
    """Raises UserError for a name that leaves the folder."""
    if "/" not in name and "\\" not in name and name != "..":
        return
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts:
        raise UserError(
            f"{path} has a member that points outside of it ({name!r}); "
            "it was not written by saev: do not use it."
        )


def _check_size(name: str, size: int, path: str, shard: ShardInfo) -> None:
    """Raises UserError for a member that is larger than it can be."""
    most = MOST_META_BYTES if name.endswith(META) else shard.n_bytes
    if not 0 <= size <= most:
        raise UserError(
            f"{path} has a member, {name!r}, of {size} bytes where {most} are the most; {REPAIR}."
        )


def _check_sample(acts: np.ndarray, meta: dict[str, Any], rows: Rows | None) -> None:
    """Raises ValueError unless a sample holds what ``rows`` says, and a readable description."""
    if wrong := META_FIELDS(meta, ""):
        raise ValueError(f"its description does not fit: {wrong}")
    if acts.dtype not in DTYPES:
        raise ValueError(f"an array of {acts.dtype}, not of {' or '.join(DTYPES)}")
    if rows is not None and (acts.shape[1], acts.dtype) != (rows.width, np.dtype(rows.dtype)):
        raise ValueError(
            f"rows of {acts.shape[1]} {acts.dtype} where the manifest says {rows.width} {rows.dtype}"
        )
    tokens = meta.get("tokens")
    if tokens is not None and len(tokens) != len(acts):
        raise ValueError(f"{len(tokens)} positions for {len(acts)} tokens")


def _is_finite(acts: np.ndarray) -> bool:
    """By the exponent's bits, all of which are 1 in what is not finite: for float16 ten times as fast
    as numpy's own."""
    if not acts.size:
        return True
    kind, exponent = ("<i2", 0x7C00) if acts.dtype.itemsize == 2 else ("<i4", 0x7F800000)
    return bool(((acts.view(kind) & exponent).max()) < exponent)


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


def decode_npy(data: bytes | Shaped[np.ndarray, " n"]) -> np.ndarray:
    """A (t, d) array, writable: of its own, or in the memory of the array of bytes that is given.

    Raises:
        ValueError: the bytes are no such array.
    """
    # torch refuses to share memory that numpy marks read-only, as that of bytes is
    own = bytearray(data) if isinstance(data, bytes) else data
    n_header = 10 + int.from_bytes(bytes(own[8:10]), "little")
    shape, dtype = _npy_header(bytes(own[:n_header]))
    return np.frombuffer(own, dtype, shape[0] * shape[1], n_header).reshape(shape)


@lru_cache(maxsize=64)  # nearly all images of a recording have the same one
def _npy_header(header: bytes) -> tuple[tuple[int, int], np.dtype]:
    file = io.BytesIO(header)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"npy version {version}")
    try:
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    except Exception as error:  # it is parsed as Python, in several ways that fail in their own
        raise ValueError("an npy header that cannot be read") from error
    if dtype.hasobject or fortran_order or len(shape) != 2:
        raise ValueError(f"an array of {dtype} with shape {shape}, not rows of numbers")
    return (shape[0], shape[1]), dtype


def _first(error: Exception) -> str:
    """The message alone: webdataset appends the stream and the URL to an exception's arguments."""
    return str(error.args[0]).split(" @ ")[0] if error.args else type(error).__name__
