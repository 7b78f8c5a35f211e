"""The explorer's server: what it answers, what it refuses, and that it leaves nothing behind."""

import gc
import json
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from saev.errors import UserError
from saev.exploration.app.serve import ExplorerServer
from saev.exploration.app.verdicts import Verdicts
from saev.exploration.explorer import Explorer

pytestmark = [  # the server's own loop and sockets, closed by uvicorn as it ends
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SECRET = b"the secret of this test"


@pytest.fixture(scope="module")
def server(explorer: Explorer) -> Iterator[ExplorerServer]:
    with ExplorerServer(explorer) as running:
        yield running
    gc.collect()


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """What a server leaves to the collector is collected where its warnings are expected."""
    yield
    gc.collect()


def fetch(url: str, data: bytes | None = None, kind: str = "application/json") -> tuple[int, bytes]:
    request = urllib.request.Request(url, data, {"content-type": kind} if data else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_the_page_loads_nothing_from_elsewhere(server: ExplorerServer) -> None:
    with urllib.request.urlopen(server.url, timeout=60) as answer:
        policy, page = answer.headers["content-security-policy"], answer.read().decode()
    assert "default-src 'self'" in policy and "http" not in policy
    assert "fonts.googleapis" not in page and os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"


@pytest.mark.parametrize("place", ["cwd", "tmp", "outputs", "uploads"])
@pytest.mark.parametrize(
    "route",
    ["gradio_api/file={path}", "file={path}", "gradio_api/file/{path}", "gradio_api/proxy={path}",
     "static/{up}{path}", "assets/{up}{path}", "verdict/{path}", "verdict/x/{up}{path}", "{path}",
     "theme.css/{up}{path}", "gradio_api/custom_component/x/client/component/{up}{path}"],
)  # fmt: skip
def test_no_file_of_the_machine_is_reachable(
    server: ExplorerServer, place: str, route: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folders = {"cwd": tmp_path, "tmp": tmp_path.parent, "outputs": tmp_path / "outputs",
               "uploads": server._folder / "uploads"}  # fmt: skip
    folders[place].mkdir(exist_ok=True)
    secret = folders[place] / "secret.txt"
    secret.write_bytes(SECRET)
    for path in (str(secret), secret.name, quote(str(secret), safe="")):
        for up in ("", "../" * 12, quote("../", safe="") * 12):
            status, content = fetch(server.url + quote(route.format(path=path, up=up), safe="/=%"))
            assert SECRET not in content, (status, route, path)
    secret.unlink()


def test_a_forged_upload_reads_no_file(server: ExplorerServer, tmp_path: Path) -> None:
    """The event of an upload names a file: one that was not uploaded is refused."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(SECRET)
    _, config = fetch(server.url + "config")
    events = json.loads(config)["dependencies"]
    uploads = [one["id"] for one in events if one["targets"] and one["targets"][0][1] == "upload"]
    assert len(uploads) == 1
    forged = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
    for path in (
        str(secret),
        server.url + "config",
        f"{server._folder}/uploads/../../{secret.name}",
    ):
        body = {"fn_index": uploads[0], "session_hash": "forged",
                "data": [None, {**forged, "path": path}]}  # fmt: skip
        status, content = fetch(server.url + "gradio_api/run/predict", json.dumps(body).encode())
        assert status != 200 and SECRET not in content
    assert secret.read_bytes() == SECRET


def test_an_upload_may_not_be_too_large(server: ExplorerServer) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    body = head + bytes(21 << 20) + b"\r\n--x--\r\n"
    try:
        status, _ = fetch(server.url + "gradio_api/upload", body, "multipart/form-data; boundary=x")
    except (urllib.error.URLError, ConnectionError):
        status = 413  # it hung up before everything was sent
    assert status == 413
    assert sum(f.stat().st_size for f in server._folder.rglob("*") if f.is_file()) < 1 << 20


def test_a_verdict_is_served_and_nothing_beside_it(tmp_path: Path) -> None:
    verdicts = Verdicts(tmp_path / "root")
    folder = verdicts.new_folder()
    (folder / "report").mkdir()
    page = folder / "report" / "index.html"
    page.write_text("verdict")
    (folder / "secret.txt").write_bytes(SECRET)
    (folder / "report" / "link.txt").symlink_to(folder / "secret.txt")
    _, _, token, name = verdicts.add(page).split("/")
    assert verdicts.file(token, name) == page
    for wrong in ("../secret.txt", "link.txt", str(folder / "secret.txt"), "", "none", "a\0b"):
        assert verdicts.file(token, wrong) is None
    assert verdicts.file("guess", name) is None
    outside = tmp_path / "index.html"
    outside.write_bytes(SECRET)
    assert verdicts.file(verdicts.add(outside).split("/")[2], "index.html") is None


def test_everything_is_removed_at_the_end(explorer: Explorer) -> None:
    server = ExplorerServer(explorer)
    folder = server._folder
    (folder / "uploads" / "left.png").write_bytes(SECRET)
    assert fetch(server.url)[0] == 200 and str(server.port) in repr(server)
    assert server.url in server._repr_html_()
    server.close()
    server.close()
    assert not folder.exists()
    with pytest.raises(OSError):
        urllib.request.urlopen(server.url, timeout=5)


def test_a_port_that_is_taken_is_said(explorer: Explorer) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match=r"port=\d+ cannot be used .* port=0"):
            ExplorerServer(explorer, port=taken.getsockname()[1])
    with pytest.raises(UserError, match="no address of this machine"):
        ExplorerServer(explorer, host="no.such.host.invalid")
