"""The server: one Explorer behind one page, until it is closed."""

import logging
import os
import shutil
import socket
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saev.errors import UserError

if TYPE_CHECKING:
    from saev.exploration.explorer import Explorer

MOST_BYTES_UPLOADED = "20mb"
QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
"""Gradio sends nothing anywhere; looked at when it is imported."""


def require_gradio() -> Any:
    """The module, imported with its reports switched off.

    Raises:
        UserError: it is not installed.
    """
    os.environ.update(QUIET)
    try:
        import gradio
    except ImportError as error:
        raise UserError(
            "the explorer needs gradio, which is not installed: pip install 'saev-lightning[app]'"
        ) from error
    return gradio


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to ``host`` and ``port`` (0: a free one).

    Raises:
        UserError: the port is taken, may not be used, or the host is none of this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        opened = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(f"host={host} is no address of this machine; leave it out") from error
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind(address)
    except OSError as error:
        opened.close()
        raise UserError(
            f"host={host} port={port} cannot be used ({os.strerror(error.errno or 0)}): "
            "give another port, or port=0 for a free one"
        ) from error
    return opened


class ExplorerServer:
    """A running page; ``close()`` ends it and removes everything that was uploaded.

    Args:
        explorer: what answers; shared by everybody who opens the page.
        host, port: where it listens; port 0 takes a free one.
    """

    def __init__(self, explorer: "Explorer", host: str = "127.0.0.1", port: int = 0) -> None:
        require_gradio()
        opened = listen(host, port)
        self._folder = Path(tempfile.mkdtemp(prefix="saev-explorer-"))
        os.environ["GRADIO_TEMP_DIR"] = str(self._folder / "uploads")
        (self._folder / "uploads").mkdir()
        try:
            self._server, self._thread = _start(explorer, opened, self._folder)
        except BaseException:
            opened.close()
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        self.port: int = opened.getsockname()[1]
        name = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
        self.url = f"http://{f'[{name}]' if ':' in name else name}:{self.port}/"
        """What to open in a browser."""

    def wait(self) -> None:
        """Returns when the server has ended; Ctrl-C raises KeyboardInterrupt here."""
        while self._thread.is_alive():
            self._thread.join(0.5)

    def close(self) -> None:
        """Ends the server within three seconds and removes its folder; a second call does nothing."""
        self._server.should_exit = True
        self._thread.join(2.0)
        if self._thread.is_alive():  # a browser holds a connection
            self._server.force_exit = True
            self._thread.join(3.0)
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> "ExplorerServer":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"ExplorerServer({self.url})"

    def _repr_html_(self) -> str:
        return f'<iframe src="{self.url}" style="width:100%;height:900px;border:0"></iframe>'


def _start(
    explorer: "Explorer", opened: socket.socket, folder: Path
) -> tuple[Any, threading.Thread]:
    import time

    import uvicorn

    app = web_app(explorer, folder)
    for name in ("uvicorn.error", "uvicorn.access", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [opened]}, name="saev-explorer", daemon=True
    )
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise UserError(
                "the explorer's server did not start; run it again with HYDRA_FULL_ERROR=1"
            )
        time.sleep(0.02)
    return server, thread


def web_app(explorer: "Explorer", folder: Path) -> Any:
    """The page and the verdicts as one ASGI application; ``folder`` takes uploads and reports."""
    gradio = require_gradio()
    from fastapi import FastAPI
    from fastapi.responses import FileResponse, PlainTextResponse, Response

    from saev.exploration.app.guard import Guard
    from saev.exploration.app.layout import CSS, plain_theme
    from saev.exploration.app.verdicts import Verdicts
    from saev.exploration.app.wiring import build_page

    verdicts = Verdicts(folder / "verdicts")
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    def verdict(token: str, name: str) -> Response:
        file = verdicts.file(token, name)
        if file is None:
            return PlainTextResponse("there is no such verdict here (any more)", 404)
        return FileResponse(file)

    app.add_api_route("/verdict/{token}/{name:path}", verdict, response_model=None)
    app = gradio.mount_gradio_app(
        app,
        build_page(explorer, verdicts),
        path="/",
        max_file_size=MOST_BYTES_UPLOADED,
        allowed_paths=[],
        show_error=False,
        ssr_mode=False,
        mcp_server=False,
        footer_links=[],
        theme=plain_theme(),
        css=CSS,
    )
    return Guard(app, folder / "uploads")
