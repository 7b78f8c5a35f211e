"""What of the server a browser may reach: the page, its events, uploads and finished verdicts.

Gradio can serve files of the machine and fetch addresses for a browser. The page needs neither, so
those routes are closed, whatever path they are asked for; and the browser is told to load nothing from
anywhere else.
"""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = re.compile(
    r"/|/config/?|/theme\.css|/favicon\.ico|/manifest\.json|/(assets|static)/.*|/verdict/.*"
    r"|/gradio_api/(info/?|app_id/?|startup-events|upload|upload_progress|heartbeat/.*"
    r"|queue/(join|data)|run/.*|api/.*|call/.*|cancel|reset/?|login_check/?)"
)
"""Paths that are answered; everything else is 404 here."""
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; font-src 'self' data:; "
    "style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "connect-src 'self'; object-src 'none'; base-uri 'self'; form-action 'self'"
)
MOST_UPLOADED = 1 << 30
"""Bytes in the temp folder from which on uploads are refused; a file that is read is removed at once."""


class Guard:
    """ASGI middleware around the whole server.

    Args:
        app: what answers the paths in ``OPEN``.
        uploads: the folder where uploads go.
    """

    def __init__(self, app: App, uploads: Path) -> None:
        self._app, self._uploads = app, uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        path = scope["path"]
        if not OPEN.fullmatch(path) or ".." in path.split("/"):
            return await _answer(send, 404, b"there is nothing here")
        if path == "/gradio_api/upload" and self._is_full():
            return await _answer(send, 507, b"too many uploads at once: wait a minute")

        async def with_policy(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and not path.startswith("/verdict/"):
                message["headers"] = [
                    *message.get("headers", []),
                    (b"content-security-policy", POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        await self._app(scope, receive, with_policy)

    def _is_full(self) -> bool:
        sizes = (path.stat().st_size for path in self._uploads.rglob("*") if path.is_file())
        return sum(sizes) > MOST_UPLOADED


async def _answer(send: Send, status: int, words: bytes) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(words)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": words})
