"""SIGKILL at any moment, start again: the same bytes, the same weights."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fakes.checkpoints import differences
from tests.fakes.commands import TINY
from tests.fakes.forked import run_forked, start_forked

pytestmark = pytest.mark.slow


def words(name: str, outputs: Path, *overrides: str) -> list[str]:
    return [name, f"paths.outputs={outputs}", *TINY, *overrides]


def run(name: str, outputs: Path, *overrides: str) -> None:
    """The command as a user gets it, worker processes included, in a fork of a warm process."""
    end = run_forked(words(name, outputs, *overrides), outputs.parent, timeout=300)
    assert end.status == 0, end.stderr


def kill_when(argv: list[str], cwd: Path, progress: Path, pattern: str, delay: float) -> None:
    """Starts a command and kills it ``delay`` seconds after a file matching ``pattern`` appeared."""
    before = set(progress.rglob(pattern))
    process = start_forked(argv, cwd)
    deadline = time.monotonic() + 240
    while not process.ends_within(0) and not (set(progress.rglob(pattern)) - before):
        assert time.monotonic() < deadline
    process.ends_within(delay)
    with suppress(ProcessLookupError):  # it was faster
        os.kill(process.pid, signal.SIGKILL)
    process.end()


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
        argv = words("record", killed, *more)
        kill_when(argv, tmp_path, killed / "activations", "*.tar*", chance.uniform(0, 0.2))
    run("record", killed, *more)
    expected = digests(tmp_path / "whole" / "activations")
    assert len(expected) > 12
    assert digests(killed / "activations") == expected


def end_of(folder: Path) -> dict[str, Any]:
    """The last checkpoint: weights, threshold, dead counters, optimiser, rates, average, generators,
    position in the data."""
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    callbacks = {
        name: value
        for name, value in state["callbacks"].items()
        if name.startswith(("EMAWeights", "ResampleDeadLatents", "RngState"))
    }
    names = ("state_dict", "optimizer_states", "lr_schedulers", "ActivationDataModule", "sae")
    return {**{name: state[name] for name in names}, "callbacks": callbacks}


LONG = (
    "trainer.max_steps=60", "trainer.val_check_interval=20", "evaluation.fidelity=false",
    "evaluation.figures=false", "callbacks.last.every_n_train_steps=3",
    "data.reservoir_tokens=1500",
)  # fmt: skip
RUNS = {
    "topk": ("callbacks=ema",),
    "batch_topk": (
        "data.num_workers=2", "model=batch_topk", "callbacks=resample",
        "+callbacks.ema._target_=callbacks.ema.EMAWeights", "+callbacks.ema.decay=0.999",
        "callbacks.resample.every_n_tokens=5120", "+callbacks.resample.pool_tokens=2048",
        "model.dead_after_tokens=1024",
    ),
    "jump_relu": ("model=jump_relu",),
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_training_killed_and_resumed_ends_in_the_same_bits(tmp_path: Path, name: str) -> None:
    outputs, more = tmp_path / "outputs", (*LONG, *RUNS[name])
    run("train", outputs, *more, f"hydra.run.dir={tmp_path / 'whole'}")
    resumed = tmp_path / "resumed"
    last = resumed / "checkpoints" / "last.ckpt"
    argv = words("train", outputs, *more, f"hydra.run.dir={resumed}")
    kill_when(argv, tmp_path, resumed, "last*.ckpt*", random.Random(name).uniform(0, 0.1))
    assert 0 < torch.load(last, weights_only=True)["global_step"] < 60  # before the end
    run("train", outputs, *more, f"hydra.run.dir={resumed}", f"ckpt_path={last}")
    whole = end_of(tmp_path / "whole")
    assert differences(whole, end_of(resumed)) == []
    assert any("exp_avg" in state for state in whole["optimizer_states"][0]["state"].values())
    assert ("sae.threshold" in whole["state_dict"]) == (name != "topk")
    assert any(key.startswith("EMAWeights") for key in whole["callbacks"]) == (name != "jump_relu")
    for file in ("config.json", "weights.safetensors"):
        first, second = (
            (folder / "sae" / file).read_bytes() for folder in (tmp_path / "whole", resumed)
        )
        assert first == second, file


def command(name: str, outputs: Path, *overrides: str) -> list[str]:
    """A command line that an interpreter starts, as ranks and terminals do."""
    verb, *given = words(name, outputs, *overrides)
    return [sys.executable, "-m", f"saev.{verb}", "logger=none", *given]


def started(*args: Any) -> None:
    done = subprocess.run(command(*args), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def children(pid: int) -> list[int]:
    """Processes started by another one."""
    listing = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listing.read_text().split()] if listing.exists() else []


def is_rank(pid: int) -> bool:
    """Whether Lightning's launcher started it."""
    try:
        return b"LOCAL_RANK=1" in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes in /proc")
def test_a_rank_that_dies_ends_the_run_with_one_message_and_it_goes_on(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    more = (*LONG, "trainer.devices=2", "callbacks.progress=null")
    started("train", outputs, *more, f"hydra.run.dir={tmp_path / 'whole'}")
    resumed = tmp_path / "resumed"
    last = resumed / "checkpoints" / "last.ckpt"
    for victim in (1, 0):
        again = (f"ckpt_path={last}",) if last.exists() else ()
        args = command("train", outputs, *more, f"hydra.run.dir={resumed}", *again)
        before = last.stat().st_mtime_ns if last.exists() else 0
        process = subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 240
        while not last.exists() or last.stat().st_mtime_ns == before:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        (other,) = [pid for pid in children(process.pid) if is_rank(pid)]
        os.kill(other if victim else process.pid, signal.SIGKILL)
        _, stderr = process.communicate(timeout=120)  # ends when both have
        assert process.returncode != 0
        text = stderr.decode()
        assert text.count("another process of this run died") == 1, text
        assert f"go on with ckpt_path={last}" in text
        assert "Traceback" not in text
    started("train", outputs, *more, f"hydra.run.dir={resumed}", f"ckpt_path={last}")
    assert differences(end_of(tmp_path / "whole"), end_of(resumed)) == []


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
