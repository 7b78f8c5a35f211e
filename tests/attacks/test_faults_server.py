"""An MLflow server that dies or hangs after a third of a training, and never comes back."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.injected import FIT, assert_good, at_step, attack

pytestmark = pytest.mark.slow

STEPS = 30


class Server:
    """MLflow's own, in a group of processes of its own."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
                "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--workers", "1",
                "--artifacts-destination", str(folder / "artifacts"),
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )  # fmt: skip

    def wait(self) -> None:
        """Until it answers: its port is open long before."""
        deadline = time.monotonic() + 240
        while True:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
                return
            except OSError:
                assert time.monotonic() < deadline and self.process.poll() is None
                time.sleep(0.2)

    def send(self, number: int) -> None:
        os.killpg(self.process.pid, number)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    one = Server(tmp_path)
    try:
        one.wait()
        yield one
    finally:
        one.send(signal.SIGKILL)
        one.process.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_server_that_never_comes_back_costs_less_than_a_minute_and_no_result(
    number: int, server: Server, tmp_path: Path
) -> None:
    line = ["train", *FIT, f"trainer.max_steps={STEPS}", f"paths.outputs={tmp_path / 'outputs'}"]
    line += ["trainer.val_check_interval=10", "callbacks.last.every_n_train_steps=10"]
    assert_good(attack(["record", *line[1:]], tmp_path))
    started = time.monotonic()
    alone = [*line, "logger=none", f"hydra.run.dir={tmp_path / 'alone'}"]
    assert_good(attack(alone, tmp_path))
    without = time.monotonic() - started
    lose = at_step(STEPS // 3, lambda: server.send(number))
    started = time.monotonic()
    tracked = [*line, f"logger.tracking_uri={server.uri}", f"hydra.run.dir={tmp_path / 'run'}"]
    assert_good(attack(tracked, tmp_path, lose, timeout=300))
    late = time.monotonic() - started - without
    print(f"{late:.1f} s later than without tracking")
    assert late < 60
    log = (tmp_path / "run" / "train.log").read_text()
    assert log.count("does not answer") == 1 and "never came back" in log
    for name in ("sae/weights.safetensors", "sae/config.json", "metrics.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
