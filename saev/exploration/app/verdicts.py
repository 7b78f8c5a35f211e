"""Reports of experiments that were run from the page, and the addresses under which they are shown."""

import secrets
import threading
from pathlib import Path

MOST_KEPT = 50
"""Reports; the oldest address stops answering when another is added."""


class Verdicts:
    """Address → folder of a report below one root; safe for many threads.

    Args:
        root: where reports are written; nothing outside it is ever served.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self._folders: dict[str, Path] = {}
        self._lock = threading.Lock()

    def new_folder(self) -> Path:
        """An empty folder for one run."""
        folder = self._root / secrets.token_hex(8)
        folder.mkdir(parents=True)
        return folder

    def add(self, page: Path) -> str:
        """The path on the server, such as ``/verdict/<token>/index.html``, under which ``page`` and what
        lies beside it are shown; nobody can guess the token."""
        token = secrets.token_urlsafe(18)
        with self._lock:
            self._folders[token] = page.resolve().parent
            while len(self._folders) > MOST_KEPT:
                self._folders.pop(next(iter(self._folders)))
        return f"/verdict/{token}/{page.name}"

    def file(self, token: str, name: str) -> Path | None:
        """The file behind an address; None where there is none, or it lies elsewhere."""
        with self._lock:
            folder = self._folders.get(token)
        if folder is None or "\0" in name:
            return None
        path = (folder / name).resolve()
        inside = path.is_relative_to(folder) and folder.is_relative_to(self._root)
        return path if inside and path.is_file() else None
