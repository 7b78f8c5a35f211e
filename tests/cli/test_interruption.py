"""SIGKILL at any moment, start again: the same bytes, the same weights."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.commands import TINY

pytestmark = pytest.mark.slow


def command(name: str, outputs: Path, *overrides: str) -> list[str]:
    return [
        sys.executable, "-m", f"saev.{name}", f"paths.outputs={outputs}", "logger=none",
        *TINY, *overrides,
    ]  # fmt: skip


def run(*args, **kwargs) -> None:
    done = subprocess.run(command(*args, **kwargs), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def kill_when(args: list[str], progress: Path, pattern: str, delay: float) -> None:
    """Starts a command and kills it ``delay`` seconds after a file matching ``pattern`` appeared."""
    process = subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    before = set(progress.rglob(pattern))
    deadline = time.monotonic() + 240
    while process.poll() is None and not (set(progress.rglob(pattern)) - before):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.suffix in (".tar", ".json")]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if ".parts" not in path.parts
    }


def test_recording_killed_five_times_is_byte_identical(tmp_path: Path) -> None:
    more = ("images.n_images=60", "record.images_per_shard=4", "record.batch_size=2")
    run("record", tmp_path / "whole", *more)
    chance = random.Random(0)
    killed = tmp_path / "killed"
    for _ in range(5):
        args = command("record", killed, *more)
        kill_when(args, killed / "activations", "*.tar*", chance.uniform(0, 0.2))
    run("record", killed, *more)
    expected = digests(tmp_path / "whole" / "activations")
    assert len(expected) > 12
    assert digests(killed / "activations") == expected


@pytest.mark.parametrize("num_workers", [0, 2])
def test_training_killed_and_resumed_ends_in_the_same_weights(
    tmp_path: Path, num_workers: int
) -> None:
    outputs = tmp_path / "outputs"
    more = (
        "trainer.max_steps=60", "trainer.val_check_interval=20", "evaluation.fidelity=false",
        "evaluation.figures=false", "callbacks.last.every_n_train_steps=3",
        f"data.num_workers={num_workers}", "data.reservoir_tokens=1500",
    )  # fmt: skip
    run("train", outputs, *more, f"hydra.run.dir={tmp_path / 'whole'}")
    resumed = tmp_path / "resumed"
    last = resumed / "checkpoints" / "last.ckpt"
    chance = random.Random(num_workers)
    for _ in range(2):
        again = (f"ckpt_path={last}",) if last.exists() else ()
        args = command("train", outputs, *more, f"hydra.run.dir={resumed}", *again)
        kill_when(args, resumed, "last*.ckpt*", chance.uniform(0, 0.3))
        assert last.exists()
    run("train", outputs, *more, f"hydra.run.dir={resumed}", f"ckpt_path={last}")
    for name in ("config.json", "weights.safetensors"):
        whole, other = (
            (folder / "sae" / name).read_bytes() for folder in (tmp_path / "whole", resumed)
        )
        assert whole == other, name


def test_ctrl_c_ends_quietly(tmp_path: Path) -> None:
    args = command("train", tmp_path / "outputs", "trainer.max_steps=100000")
    args += [f"hydra.run.dir={tmp_path / 'run'}", "trainer.val_check_interval=50"]
    process = subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not list((tmp_path / "run").rglob("best.ckpt")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in stderr
