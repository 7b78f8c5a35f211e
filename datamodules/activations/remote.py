"""Remote tars: fetched ahead of who reads them, checked as they come, kept on a disk within a bound."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from filelock import FileLock

from datamodules.activations.format import READ_BYTES, ShardInfo, disk_error, join, open_read
from datamodules.activations.tar import REPAIR
from saev.errors import UserError
from saev.stopping import stop_if_asked

ATTEMPTS = 5
FIRST_WAIT = 0.5
"""Seconds before the second attempt; each one after waits twice as long."""

LONG_SECONDS = 600
"""So long nobody writes to a file that is still on its way."""


class RemoteShards:
    """Copies of the tars of a remote recording, named by their SHA-256, which a copy has to have.

    Processes share a folder: what one has fetched the others find. The copies that nobody has used for the
    longest go first when room is needed; one that is being read stays readable while it is.

    Args:
        location: URL of the recording.
        folder: where copies are kept.
        most_bytes: that they may take together; a tar larger than that is read from the network.
    """

    def __init__(self, location: str, folder: Path, most_bytes: float) -> None:
        self.location, self.folder, self.most_bytes = location, folder, most_bytes
        self._ahead: dict[str, threading.Thread] = {}
        self._errors: dict[str, BaseException] = {}

    def fits(self, shard: ShardInfo) -> bool:
        """Whether a copy of it is made."""
        return shard.n_bytes <= self.most_bytes

    def place(self, shard: ShardInfo) -> tuple[Path, ShardInfo]:
        """Folder and name of a copy, fetched now unless it is there or on its way.

        Raises:
            UserError: the server does not answer, does not have it, or has another file; a full disk.
        """
        if (thread := self._ahead.pop(shard.name, None)) is not None:
            while thread.is_alive():
                thread.join(timeout=0.2)
                stop_if_asked()
        if (error := self._errors.pop(shard.name, None)) is not None:
            raise error
        self._fetch(shard)
        return self.folder, replace(shard, name=f"{shard.sha256}.tar")

    def begin(self, shard: ShardInfo) -> None:
        """Begins to fetch it in the background."""
        if not self.fits(shard) or shard.name in self._ahead or self._path(shard).is_file():
            return
        thread = threading.Thread(target=self._fetch_quietly, args=(shard,), daemon=True)
        self._ahead[shard.name] = thread
        thread.start()

    def _path(self, shard: ShardInfo) -> Path:
        return self.folder / f"{shard.sha256}.tar"

    def _fetch_quietly(self, shard: ShardInfo) -> None:
        try:
            self._fetch(shard)
        except BaseException as error:  # raised where it is waited for
            self._errors[shard.name] = error

    def _fetch(self, shard: ShardInfo) -> None:
        target = self._path(shard)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._forget_the_dead()
            with FileLock(self.folder / f".{shard.sha256}.lock"):
                if target.is_file() and target.stat().st_size == shard.n_bytes:
                    os.utime(target)  # used just now
                    return
                partial = self._room_for(shard)
                try:
                    _with_patience(lambda: self._download(shard, partial))
                    partial.replace(target)
                finally:
                    partial.unlink(missing_ok=True)
        except UserError:
            raise
        except FileNotFoundError as error:
            raise UserError(f"{join(self.location, shard.name)} is missing; {REPAIR}.") from error
        except OSError as error:
            raise disk_error(error, target) from error

    def _forget_the_dead(self) -> None:
        """Removes what killed processes had begun."""
        for path in self.folder.glob("*.tmp"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > LONG_SECONDS:
                    path.unlink(missing_ok=True)

    def _download(self, shard: ShardInfo, partial: Path) -> None:
        """Raises ConnectionError for whatever another attempt may mend."""
        url, digest = join(self.location, shard.name), hashlib.sha256()
        with partial.open("wb") as file:
            for chunk in _chunks(url):
                digest.update(chunk)
                file.write(chunk)
        if digest.hexdigest() != shard.sha256:
            raise ConnectionError(f"{url} came with another SHA-256 than its manifest says")

    def _room_for(self, shard: ShardInfo) -> Path:
        """An empty file that keeps room for it; waits for others that are on their way, and then takes
        theirs if nobody has used them since."""
        name = f"{shard.sha256}.{os.getpid()}.{threading.get_ident()}.{shard.n_bytes}.tmp"
        while True:
            with FileLock(self.folder / ".room.lock"):
                coming = sum(int(path.suffixes[-2][1:]) for path in self.folder.glob("*.tmp"))
                if self._evict(self.most_bytes - coming - shard.n_bytes):
                    (self.folder / name).touch()
                    return self.folder / name
            time.sleep(0.05)
            stop_if_asked()

    def _evict(self, most_bytes: float) -> bool:
        """Removes what has not been used for the longest until no more than that is left."""
        found = []
        for path in self.folder.glob("*.tar"):
            with suppress(FileNotFoundError):  # somebody has cleared the folder
                found.append((path.stat().st_mtime, path.stat().st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= most_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size
        return total <= most_bytes


def _chunks(url: str) -> Iterator[bytes]:
    """The content of a URL; raises ConnectionError where it cannot be read to its end."""
    try:
        with open_read(url) as file:
            while chunk := file.read(READ_BYTES):
                yield chunk
    except (FileNotFoundError, UserError):
        raise
    except OSError as error:
        raise ConnectionError(str(error)) from error


def _with_patience(work: Callable[[], None]) -> None:
    """Some attempts; raises UserError after the last."""
    wait = FIRST_WAIT
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return work()
        except ConnectionError as error:
            if attempt == ATTEMPTS:
                raise UserError(
                    f"a shard cannot be read after {ATTEMPTS} attempts ({error}); check the address and "
                    "the network, or get the recording again"
                ) from error
        time.sleep(wait)
        wait *= 2
        stop_if_asked()
    return None
