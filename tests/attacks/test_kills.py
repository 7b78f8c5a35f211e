"""Killed again and again, at any file it touches and at any time, and run again: bit for bit the same end.

A chain of kills ends with a run that nobody disturbs. Half of the kills come just before the n-th time
that the command opens, renames or removes a file of its own, and so meet every state of the disk that
there is between two such moments; the others come at a random time.
"""

import hashlib
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml

from tests.attacks.injected import End, assert_good, attack, nothing
from tests.fakes.checkpoints import differences
from tests.fakes.commands import ALONE, HYPOTHESIS, SMALL
from tests.fakes.once import Once

EVENTS = {"open", "os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir"}


class Kill:
    """Ends this process when it is about to touch a file below ``root`` for the n-th time; counts."""

    def __init__(self, root: Path, nth: int) -> None:
        self.root, self.nth, self.count = os.fspath(root), nth, 0

    def __call__(self) -> None:
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in EVENTS or not str(arguments[0]).startswith(self.root):
            return
        if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        self.count += 1
        if self.count == self.nth:
            os.kill(os.getpid(), signal.SIGKILL)


class After:
    """Kills a child so many seconds after its start."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.start = seconds, time.monotonic()

    def __call__(self, child: int) -> None:
        if time.monotonic() - self.start > self.seconds:
            os.kill(child, signal.SIGKILL)


class Case(NamedTuple):
    """A command that writes below ``outputs``, into ``outputs/run``."""

    verb: str
    overrides: Callable[[Path, Path], Sequence[str]]
    """Of the folder that is shared by all runs, and of ``outputs``."""
    n_kills: int
    resumes: bool = False
    """Whether it takes a checkpoint."""


LONG = (
    *ALONE, "trainer.max_steps=24", "trainer.val_check_interval=8", "evaluation.fidelity=false",
    "evaluation.figures=false", "callbacks.last.every_n_train_steps=3", "callbacks.progress=null",
    "data.reservoir_tokens=700",
)  # fmt: skip


def training(callbacks: str, *more: str) -> Callable[[Path, Path], Sequence[str]]:
    return lambda shared, outputs: (
        *LONG, f"record.root={shared / 'activations'}", f"callbacks={callbacks}", *more,
    )  # fmt: skip


RESAMPLE = (
    "model.dead_after_tokens=256", "callbacks.resample.every_n_tokens=1536",
    "+callbacks.resample.pool_tokens=1024",
)  # fmt: skip

FEW = ("pages.n_latents=3", "pages.attributions=0", "naming.n_latents=4", "naming.n_random=4")

CASES = {
    "record": Case("record", lambda shared, outputs: (
        *ALONE, "images.n_images=24", "record.images_per_shard=3", "record.batch_size=2",
    ), 12),
    "default": Case("train", training("default"), 7, resumes=True),
    "ema": Case("train", training("ema"), 7, resumes=True),
    "resample": Case("train", training("resample", *RESAMPLE), 7, resumes=True),
    "head": Case("train", lambda shared, outputs: (
        "+experiment=probe_scenes", "images.n_images=24", "record.num_workers=0",
        "trainer.accelerator=cpu", "trainer.max_steps=20", "trainer.val_check_interval=10",
        "callbacks.progress=null", "callbacks.last.every_n_train_steps=5",
        f"record.root={shared / 'activations'}",
    ), 4),
    "describe": Case("describe", lambda shared, outputs: (
        f"sae={shared / 'sae'}", *SMALL, *FEW, "atlas.num_workers=0",
    ), 6),
    "intervene": Case("intervene", lambda shared, outputs: (
        f"hypothesis={shared / 'hypothesis.yaml'}", f"sae={shared / 'sae'}", "head=attributes",
        "images=scenes", "images.n_images=80", "images.val_fraction=0.4", "trainer.accelerator=cpu",
        "intervention.num_workers=0",
    ), 5),
}  # fmt: skip
"""``conf/callbacks`` has default, ema, resample and head."""


def test_every_file_of_callbacks_is_killed() -> None:
    from saev.defaults import names

    assert set(names("callbacks")) <= set(CASES)
    assert sum(case.n_kills for case in CASES.values()) >= 40


@pytest.fixture(scope="module")
def shared(once: Once, sae_dir: Path) -> Path:
    """A recording, a dictionary and a hypothesis that no kill touches."""

    def fill(folder: Path) -> None:
        shutil.copytree(sae_dir, folder / "sae")
        (folder / "hypothesis.yaml").write_text(yaml.safe_dump(HYPOTHESIS))
        root = f"record.root={folder / 'activations'}"
        for more in ((*ALONE,), CASES["head"].overrides(folder, folder)):
            verb = "record" if more == ALONE else "train"
            assert_good(attack([verb, *more, root, f"paths.outputs={folder / 'made'}"], folder))

    return once("killed", fill)


def run(
    case: Case, shared: Path, outputs: Path, inject: Callable[[], None] = nothing,
    watch: Callable[[int], None] = nothing,
) -> End:  # fmt: skip
    """The command once, from its newest checkpoint where there is one."""
    folder = outputs / "run"
    argv = [case.verb, *case.overrides(shared, outputs), f"hydra.run.dir={folder}"]
    argv.append(f"paths.outputs={outputs}")
    checkpoint = folder / "checkpoints" / "last.ckpt"
    if case.resumes and checkpoint.exists():
        argv.append(f"ckpt_path={checkpoint}")
    return attack(argv, outputs, inject, watch)


NOT_COMPARED = ("config.yaml", ".lock", ".hydra", ".parts", "firing")
"""What says how it came about. A validation that a kill has cut off is not repeated by the run that goes on
after it, so its figure, ``best.ckpt`` and the random numbers it drew are not compared either."""


def state_of(outputs: Path) -> dict[str, Any]:
    """Path → digest, of all that a command leaves; of a checkpoint what it holds."""
    found: dict[str, Any] = {}
    for path in sorted(outputs.rglob("*")):
        place = path.relative_to(outputs)
        if path.is_dir() or path.suffix == ".log" or set(NOT_COMPARED) & set(place.parts):
            continue
        if path.name == "last.ckpt":
            kept = torch.load(path, weights_only=True)
            names = ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "sae")
            found[str(place)] = {name: kept.get(name) for name in names}
            found[f"{place}/callbacks"] = {
                name: state
                for name, state in kept["callbacks"].items()
                if name.startswith(("EMAWeights", "ResampleDeadLatents"))
            }
        elif path.name != "best.ckpt":  # of the best validation that this process has seen
            found[str(place)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_killed_again_and_again_it_ends_as_if_nobody_had(
    name: str, shared: Path, tmp_path: Path
) -> None:
    case, chance = CASES[name], random.Random(name)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    started = time.monotonic()
    n_events = events_of(case, shared, whole)
    seconds = time.monotonic() - started
    n_killed = 0
    for number in range(
        3 * case.n_kills
    ):  # one that goes on from a late moment may end before its own
        if number % 2:
            end = run(case, shared, killed, watch=After(chance.uniform(0.1, 0.6) * seconds))
        else:
            nth = chance.randint(1, max(3, n_events >> number // 2 % 3))
            end = run(case, shared, killed, Kill(killed, nth))
        assert end.status in (0, -signal.SIGKILL), end.stderr[-2000:]
        n_killed += end.status != 0
        if n_killed == case.n_kills:
            break
    assert n_killed == case.n_kills
    assert_good(run(case, shared, killed))
    assert differences(state_of(whole), state_of(killed)) == []
    assert not list(killed.rglob("*.tmp")) and not list(killed.rglob("previous.ckpt"))


def events_of(case: Case, shared: Path, outputs: Path) -> int:
    """How often an undisturbed run, which this is, touches a file of its own."""
    counter = Kill(outputs, -1)

    def count() -> None:
        counter()
        real = os._exit

        def leave(status: int) -> None:
            os.write(1, f"\nevents {counter.count}\n".encode())
            real(status)

        os._exit = leave  # type: ignore[assignment]

    end = run(case, shared, outputs, count)
    assert_good(end)
    return int(end.stdout.rpartition("events ")[2])
