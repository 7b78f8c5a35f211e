"""``python -m saev.tracking.ui``: the server itself once, slowly, and what stands before it."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from saev.tracking import ui


def test_serves_the_store_it_has_opened(
    uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served: list[tuple[str, int]] = []
    monkeypatch.setattr(ui, "serve", lambda *arguments: served.append(arguments) or 0)
    assert ui.main(["--uri", uri, "--port", "5001"]) == 0
    assert served == [(uri, 5001)]
    assert "http://127.0.0.1:5001/#/experiments/1" in capsys.readouterr().out


def test_a_store_that_cannot_be_opened_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert ui.main(["--uri", "./mlruns"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_the_server_answers_on_this_machine_and_ends_at_the_first_interrupt(
    tmp_path: Path,
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "saev.tracking.ui", "--port", str(port)]
    server = subprocess.Popen(command, cwd=tmp_path, start_new_session=True)
    try:
        assert answers(port, server) == 200
        os.killpg(server.pid, signal.SIGINT)
        assert server.wait(timeout=60) == 0
    finally:
        server.terminate()
        server.wait()
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
    assert (tmp_path / "outputs/mlflow.db").is_file()


def answers(port: int, server: subprocess.Popen[bytes]) -> int:
    """The status of the start page, once there is one."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and server.poll() is None:
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).status
        except OSError:
            time.sleep(0.5)
    return 0
