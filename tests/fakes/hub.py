"""A hub on 127.0.0.1: what huggingface_hub asks of the real one to download files."""

import json
import shutil
import threading
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "a" * 40


def git_oid(file: Path) -> str:
    """What git calls the content, and the hub the file's ETag."""
    content = file.read_bytes()
    return sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub:
    """Repositories below a folder, served while the object lives."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.fetched: list[str] = []
        """Paths of files that were sent."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self._answer(body=False)

            def do_GET(self) -> None:
                self._answer(body=True)

            def log_message(self, *_: object) -> None:
                pass

            def _answer(self, body: bool) -> None:
                path = self.path.partition("?")[0].strip("/")
                if path.startswith("api/models/"):
                    return self._send(hub.listing(path.removeprefix("api/models/")), body)
                repo, _, rest = path.partition("/resolve/")
                name = rest.partition("/")[2]
                file = hub.root / repo / name
                if not file.is_file():
                    return self._send(None, body)
                if body:
                    hub.fetched.append(name)
                return self._send(file.read_bytes(), body)

            def _send(self, content: bytes | None, body: bool) -> None:
                found = content if content is not None else b'{"error": "not found"}'
                self.send_response(200 if content is not None else 404)
                if content is None:
                    self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", str(len(found)))
                self.send_header("Content-Type", "application/json")
                self.send_header("ETag", f'"{sha1(found).hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
                self.end_headers()
                if body:
                    self.wfile.write(found)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def add(self, repo: str, folder: str, source: Path) -> None:
        """A folder's files as those of a repository."""
        target = self.root / repo / folder
        target.mkdir(parents=True, exist_ok=True)
        for file in source.iterdir():
            shutil.copy(file, target)

    def listing(self, asked: str) -> bytes | None:
        """Names of all files, as the hub's API gives them."""
        repo = "/".join(asked.split("/")[:2])
        folder = self.root / repo
        if not folder.is_dir():
            return None
        files = [str(f.relative_to(folder)) for f in sorted(folder.rglob("*")) if f.is_file()]
        if "/tree/" in asked:
            rows = [
                {"type": "file", "path": name, "size": (folder / name).stat().st_size,
                 "oid": git_oid(folder / name)}
                for name in files
            ]  # fmt: skip
            return json.dumps(rows).encode()
        siblings = [{"rfilename": name} for name in files]
        tags: list[str] = []
        content = {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings, "tags": tags}
        return json.dumps(content | {"private": False, "downloads": 0}).encode()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
