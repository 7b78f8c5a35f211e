"""Files that nobody should open without looking: tars that claim what they do not hold."""

import tarfile
from collections.abc import Mapping
from pathlib import Path


def sparse_tar(path: Path, members: Mapping[str, int], content: bytes = b"") -> Path:
    """A tar of a few kilobytes whose members (name → bytes) claim to be that large: GNU sparse files
    that hold ``content`` at their beginning, and holes."""
    with path.open("wb") as file:
        for name, n_bytes in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.type = len(content), tarfile.GNUTYPE_SPARSE
            header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
            header[257:265] = b"ustar  \0"
            # offset and length of what is there, then of nothing at the end; then the real size
            header[386:410] = _number(0) + _number(len(content))
            header[410:434] = _number(n_bytes) + _number(0)
            header[482:483] = b"\0"
            header[483:495] = _number(n_bytes)
            header[148:156] = b" " * 8
            header[148:156] = b"%06o\0 " % sum(header[:512])
            file.write(header + content + bytes(-len(content) % 512))
        file.write(bytes(1024))
    return path


def _number(value: int) -> bytes:
    """12 bytes as GNU tar writes them: octal digits, or base 256 where those do not suffice."""
    if value < 8**11:
        return b"%011o\0" % value
    return b"\x80" + value.to_bytes(11, "big")
