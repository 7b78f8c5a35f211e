"""Files: SHA-256, writing that leaves a whole file or none, and full disks."""

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def file_sha256(file: str | Path | BinaryIO) -> str:
    """SHA-256 in hex of a file, or of the rest of an open one; read in pieces."""
    if isinstance(file, str | Path):
        with Path(file).open("rb") as opened:
            return file_sha256(opened)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


@contextmanager
def appearing_whole(path: Path) -> Iterator[Path]:
    """A path next to this one to write a file to, which takes its place when the block ends.

    A reader sees the old file or the new one, whole. Where the block fails, nothing changes.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # or a power cut may leave the name without its content
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Writes these bytes, or this text in UTF-8, as ``appearing_whole`` does; raises OSError."""
    with appearing_whole(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def remove_partials(folder: Path) -> None:
    """Removes what a killed process was writing with ``appearing_whole``, in a folder and two below it.

    Nobody else may be writing there.
    """
    for pattern in (".*.tmp", "*/.*.tmp", "*/*/.*.tmp"):
        for leftover in folder.glob(pattern):
            if re.search(r"\.\d+\.tmp$", leftover.name):
                leftover.unlink(missing_ok=True)


FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_WORDS = ("No space left on device", "Disk quota exceeded", "database or disk is full")


def full_disk(error: BaseException | None, path: str | Path | None = None) -> OSError | None:
    """The system's error where a full disk is behind this one, as libraries wrap it in their own.

    Args:
        path: what could not be written, where the caller knows it; the error itself may not know, or
            know a temporary file that was to be renamed.
    """
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        number = error.errno if isinstance(error, OSError) else None
        if number in FULL or any(words in str(error) for words in FULL_WORDS):
            own = None
            if isinstance(error, OSError):
                own = error.filename2 or error.filename
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path or own or "") or None)
        error = error.__cause__ or error.__context__
    return None
