"""Image tars: where they are, how they are fetched, and what is in them.

A local tar is indexed by reading its headers once; images are then read by offset, which needs no
open file and so works in any process.
"""

import glob
import hashlib
import logging
import math
import os
import re
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

from saev.errors import UserError
from saev.files import a_text, shown

log = logging.getLogger(__name__)

REMOTE = ("http://", "https://", "s3://")
MOST_TARS = 10**6
"""That one pattern with braces may stand for."""
SIDE_SUFFIXES = (".cls", ".json")
"""Members that are read while indexing; everything else but images is passed over unread."""
MOST_SIDE_BYTES = 1 << 20


class TarMember(NamedTuple):
    """A file in a tar."""

    name: str
    offset: int  # of its first byte
    n_bytes: int
    text: bytes | None  # the content of a member with one of `SIDE_SUFFIXES`


def expand_urls(urls: str | Sequence[str]) -> list[str]:
    """Paths and URLs with braces ({00..09}) and, for local paths, glob patterns spelt out.

    Raises `UserError` when nothing is given or a local path or pattern matches no file.
    """
    expanded: list[str] = []
    for url in [urls] if isinstance(urls, str) else urls:
        for one in spell_out(url):
            expanded += [one] if is_fetched(one) else _local(one)
    if not expanded:
        raise UserError("no image tars are given: set images.urls to a path, pattern or URL")
    return expanded


def spell_out(url: str) -> list[str]:
    """Braces ({00..09}) spelt out; raises `UserError` for one without its partner, and for patterns
    that stand for more than `MOST_TARS`."""
    from braceexpand import braceexpand

    if url.startswith("pipe:"):  # braces there belong to the shell
        return [url]
    if _most_meant(url) > MOST_TARS:
        raise UserError(
            f"images.urls has a pattern that may stand for more than {MOST_TARS:,} tars: {shown(url)}"
        )
    try:
        return list(braceexpand(url))
    except ValueError as error:  # its UnbalancedBracesError
        raise UserError(f"images.urls has a brace without its partner: {shown(url)}") from error


def _most_meant(pattern: str) -> float:
    """No fewer than a pattern stands for, found without spelling it out."""
    ranges = re.findall(r"\{(-?\d{1,18})\.\.(-?\d{1,18})(?:\.\.-?\d+)?\}", pattern)
    spans = math.prod(float(abs(int(last) - int(first)) + 1) for first, last in ranges)
    n_others = pattern.count("{") - len(ranges)
    if n_others > 64 or re.search(r"\d{19}\.\.|\.\.-?\d{19}", pattern):
        return math.inf
    return spans * float(1 + max(pattern.count(","), 52 * pattern.count(".."))) ** n_others


def is_fetched(url: str) -> bool:
    """Whether it is no local path: a remote address or a command."""
    return url.startswith((*REMOTE, "pipe:"))


def _local(path: str) -> list[str]:
    if "://" in path:
        scheme = path.partition("://")[0]
        raise UserError(
            f"images.urls has the scheme {scheme}:// in {path}: use a path, http(s)://, s3:// or "
            "pipe:"
        )
    path = os.path.abspath(Path(path).expanduser())  # noqa: PTH100 - links keep their names
    if Path(path).is_file():
        return [path]
    matches = sorted(match for match in glob.glob(path) if Path(match).is_file())  # noqa: PTH207
    if not matches:
        raise UserError(f"no image tar matches {path}: set images.urls to tars that exist")
    return matches


def tar_stem(url: str) -> str:
    """Name of a tar without folder and suffix; for a pipe the last .tar that its command names."""
    if url.startswith("pipe:"):
        named = re.findall(r"([^/\s'\"=]+)\.tar\b", url)
        return named[-1] if named else "pipe-" + hashlib.sha256(url.encode()).hexdigest()[:12]
    name = url.partition("?")[0].rpartition("/")[2] if url.startswith(REMOTE) else Path(url).name
    return name.removesuffix(".tar")


def localize(url: str, cache_dir: Path) -> Path:
    """The tar on this machine: a local path itself, anything else fetched into `cache_dir` once.

    A fetched tar gets its name when it is complete, so an interrupted fetch leaves nothing that
    looks finished. Raises `UserError` when it cannot be fetched or arrives cut short.
    """
    if not is_fetched(url):
        return Path(url)
    tag = hashlib.sha256(url.encode()).hexdigest()[:12]
    target = cache_dir / f"{tar_stem(url)}-{tag}.tar"
    if target.is_file():
        return target
    cache_dir.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(f".part{os.getpid()}")
    log.info("fetching %s", url)
    try:
        if url.startswith("pipe:"):
            _run_pipe(url, part)
        else:
            _download(url, part)
        index_tar(part, url)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def _run_pipe(url: str, path: Path) -> None:
    command = url.removeprefix("pipe:")
    with path.open("wb") as file:
        done = subprocess.run(command, shell=True, stdout=file, stderr=subprocess.PIPE, check=False)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        why = f": {lines[-1]}" if lines else ""
        raise UserError(
            f"the command of {url} ended with status {done.returncode}{why}; run it by hand "
            "to see why"
        )


def _download(url: str, path: Path) -> None:
    import fsspec.core

    try:
        system, remote = fsspec.core.url_to_fs(url)
        system.get_file(remote, str(path))
    except ImportError as error:
        raise UserError(
            f"{url} needs the package s3fs: install it with pip install 'saev-lightning[s3]'"
        ) from error
    except FileNotFoundError as error:
        raise UserError(f"there is nothing at {url}: check the address") from error
    except Exception as error:  # each remote file system has errors of its own
        reason = str(error).strip().rstrip(".") or type(error).__name__
        raise UserError(
            f"{url} cannot be fetched ({reason}): check the address and the network"
        ) from error


def index_tar(path: Path, where: str) -> list[TarMember]:
    """All files of an uncompressed tar, in its order.

    Raises `UserError`, naming `where`, for a tar that is cut short, compressed or no tar, and for
    members that are links or sparse, that reach past the tar's end, whose name is absolute or leads
    upwards, or that should hold a label and are larger than `MOST_SIDE_BYTES`.
    """
    try:
        with path.open("rb") as file:
            return _read_members(file, where)
    except OSError as error:
        raise UserError(f"the tar {where} cannot be read ({error.strerror})") from error


def _read_members(file: IO[bytes], where: str) -> list[TarMember]:
    if file.read(2) == b"\x1f\x8b":
        raise UserError(
            f"the tar {where} is compressed: unpack it with gunzip to read it by offset"
        )
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    members: list[TarMember] = []
    end = 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for info in tar:
                if info.size < 0:
                    raise tarfile.ReadError(f"{info.name!r} has a negative size")
                end = info.offset_data + (-(-info.size // 512) * 512 if info.isreg() else 0)
                if info.isdir():
                    continue
                _check_member(info, where)
                if info.offset_data + info.size > size:
                    raise tarfile.ReadError(f"{info.name!r} reaches past the end")
                text = None
                if info.name.lower().endswith(SIDE_SUFFIXES):
                    if info.size > MOST_SIDE_BYTES:
                        raise UserError(
                            f"the member {info.name!r} of the tar {where} has {info.size} bytes, and "
                            f"a label has at most {MOST_SIDE_BYTES}: write the tar again"
                        )
                    text = tar.extractfile(info).read()  # type: ignore[union-attr]
                members.append(TarMember(info.name, info.offset_data, info.size, text))
    except (tarfile.TarError, ValueError, OverflowError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"the tar {where} is cut short or damaged ({error}): get it again"
        ) from error
    file.seek(end)
    # tarfile takes a missing end for the end; whole tars close with blocks of zeros.
    if file.read(512) != bytes(512):
        raise UserError(
            f"the tar {where} is cut short or damaged after {len(members)} files: get it again"
        )
    return members


def _check_member(info: tarfile.TarInfo, where: str) -> None:
    if info.name.startswith("/") or ".." in info.name.split("/"):
        raise UserError(
            f"the tar {where} has a member named {info.name!r}, which leads outside of it: such "
            "tars are not read"
        )
    if not info.isreg() or info.issparse():
        what = "sparse" if info.issparse() else "a link or device"
        raise UserError(
            f"the member {info.name!r} of the tar {where} is {what}: write the tar again with plain "
            "files"
        )
    if a_text()(info.name, "name"):
        raise UserError(
            f"the tar {where} has a member whose name, {info.name!r}, is no UTF-8: write the tar again"
        )


def read_member(path: Path, offset: int, n_bytes: int) -> bytes:
    """The bytes of one member."""
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(n_bytes)
