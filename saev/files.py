"""Files: what every room asks of one."""

import hashlib
from pathlib import Path
from typing import BinaryIO


def file_sha256(file: str | Path | BinaryIO) -> str:
    """SHA-256 in hex of a file, or of the rest of an open one; read in pieces."""
    if isinstance(file, str | Path):
        with Path(file).open("rb") as opened:
            return file_sha256(opened)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
