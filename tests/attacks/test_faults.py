"""A machine that fails: full and read-only disks, damaged shards, dead workers, lost stores, signals.

Each case runs a real command in a forked child. It ends well or with one sentence; then the same command
runs undisturbed, and ends well.
"""

import errno
import os
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from filelock import FileLock
from PIL import Image

from tests.attacks.injected import (
    FIT,
    End,
    assert_good,
    assert_one_sentence,
    at_step,
    attack,
    nothing,
)
from tests.fakes.commands import ALONE, HYPOTHESIS, SMALL
from tests.fakes.once import Once

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def made(once: Once, sae_dir: Path) -> Path:
    """A recording, a dictionary of the micro model and a hypothesis; read only."""

    def fill(folder: Path) -> None:
        shutil.copytree(sae_dir, folder / "sae")
        (folder / "hypothesis.yaml").write_text(yaml.safe_dump(HYPOTHESIS))
        outputs = (f"paths.outputs={folder / 'outputs'}", f"record.root={folder / 'activations'}")
        assert_good(attack(["record", *ALONE, *outputs], folder))

    return once("faults", fill)


@pytest.fixture
def command(made: Path, tmp_path: Path) -> "Command":
    """The command line of a verb; everything is written below ``tmp_path``, which has a recording. Without
    the figures of an evaluation, unless asked."""
    shutil.copytree(made / "activations", tmp_path / "activations")

    def line(verb: str, drawn: bool = False) -> list[str]:
        more: dict[str, Sequence[str]] = {
            "record": (*ALONE, f"record.root={tmp_path / 'new'}"),
            "train": (*FIT, f"record.root={tmp_path / 'activations'}", f"evaluation.figures={drawn}"),
            "evaluate": (f"sae={made / 'sae'}", "evaluation.num_workers=0",
                         "trainer.accelerator=cpu", "evaluation.fidelity=false",
                         f"evaluation.figures={drawn}"),
            "describe": (f"sae={made / 'sae'}", *SMALL, "atlas.num_workers=0", "pages.n_latents=3",
                         "pages.attributions=0", "naming.n_latents=4", "naming.n_random=4"),
            "intervene": (f"hypothesis={made / 'hypothesis.yaml'}", f"sae={made / 'sae'}",
                          "head=attributes", "images=scenes", "images.n_images=80",
                          "images.val_fraction=0.4", "trainer.accelerator=cpu",
                          "intervention.num_workers=0"),
        }  # fmt: skip
        where = (f"hydra.run.dir={tmp_path / 'run'}", f"paths.outputs={tmp_path / 'outputs'}")
        return [verb, *more[verb], *where]

    return line


Command = Callable[..., list[str]]


# --- disks ------------------------------------------------------------------------------------


class Refusing:
    """The system refuses to open for writing, or to rename, what has these words in its path."""

    def __init__(self, words: str, number: int, root: Path) -> None:
        self.words, self.number, self.root = words, number, os.fspath(root)

    def __call__(self) -> None:
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in ("open", "os.rename", "os.mkdir"):
            return
        if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        path = str(arguments[0])
        if path.startswith(self.root) and self.words in path.removeprefix(self.root):
            raise OSError(self.number, os.strerror(self.number), path)


FILES = {
    "record": ("train-000001.tar", "heldout-000000.tar", "manifest.json", ".parts", "config.yaml"),
    "train": ("config.yaml", "last.ckpt", "best.ckpt", "weights.safetensors", "config.json",
              "metrics.json", "figures"),
    "evaluate": ("config.yaml", "metrics.json", "figures"),
    "describe": ("codes.json", "part-000001", "latents.parquet", "baselines.parquet", "images.json",
                 "index.html", "thumbs", "metrics.json"),
    "intervene": ("registered.json", "verdict.json", "summary.csv", "index.html",
                  "metrics.json"),
}  # fmt: skip
NUMBERS = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EIO)
DISKS = [
    pytest.param(
        verb, words, NUMBERS[n % len(NUMBERS)],
        id=f"{verb}-{words}", marks=() if words in ("last.ckpt", "manifest.json") else slow,
    )
    for verb, all_words in FILES.items()
    for n, words in enumerate(all_words)
]  # fmt: skip


@pytest.mark.parametrize(("verb", "words", "number"), DISKS)
def test_a_disk_that_refuses(
    verb: str, words: str, number: int, command: Command, tmp_path: Path
) -> None:
    line = command(verb, drawn=words == "figures")
    end = attack(line, tmp_path, Refusing(words, number, tmp_path))
    is_full = number in (errno.ENOSPC, errno.EDQUOT)
    reason = ("disk is full", "full") if is_full else (os.strerror(number), "could not be")
    assert_one_sentence(end)
    assert any(word in end.said[0] for word in reason), end.said[0]
    assert str(tmp_path) in end.said[0], "it names the place"
    assert not list(tmp_path.rglob("*.tmp"))
    if FILES[verb].index(words) % 3 == 1:  # of each verb some: where it stopped makes no difference
        assert_good(attack(line, tmp_path))


@slow
@pytest.mark.parametrize("verb", FILES)
@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOTDIR])
def test_a_run_folder_that_cannot_be_made(
    verb: str, number: int, command: Command, tmp_path: Path
) -> None:
    end = attack(command(verb), tmp_path, Refusing("run", number, tmp_path))
    assert_one_sentence(end, str(tmp_path / "run"), os.strerror(number))


@slow
@pytest.mark.parametrize("name", ["x" * 300, "file"])
def test_a_run_folder_with_a_name_that_no_folder_can_have(
    name: str, command: Command, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    line = [*command("evaluate"), f"hydra.run.dir={tmp_path / name / 'run'}"]
    assert_one_sentence(attack(line, tmp_path), "hydra.run.dir=")


# --- shards -----------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:3000])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[700] ^= 64
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, empty, flip, Path.unlink])
@pytest.mark.parametrize(
    "when", [pytest.param(0, marks=slow), pytest.param(2, marks=slow)], ids=["before", "meanwhile"]
)
@pytest.mark.parametrize("name", ["train-000000.tar", "heldout-000000.tar"])
def test_a_shard_that_is_damaged(
    damage: Callable[[Path], object], when: int, name: str, command: Command, tmp_path: Path
) -> None:
    (folder,) = (tmp_path / "activations").iterdir()
    line = [*command("train"), "trainer.max_steps=60", "trainer.val_check_interval=20"]
    inject = nothing
    if when:
        inject = at_step(when, lambda: damage(folder / name))
    else:
        damage(folder / name)
    assert_one_sentence(attack(line, tmp_path, inject), str(folder / name), "run saev.record")


# --- workers ----------------------------------------------------------------------------------


class KillWorker:
    """Kills the first child of the child, once it has one."""

    def __init__(self, number: int = signal.SIGKILL) -> None:
        self.number, self.done = number, False

    def __call__(self, child: int) -> None:
        if self.done:
            return
        try:
            found = Path(f"/proc/{child}/task/{child}/children").read_text().split()
        except OSError:
            return
        for pid in found:
            try:
                name = Path(f"/proc/{pid}/comm").read_text()
            except OSError:
                continue
            if name.startswith(("python", "pt_", "pytest")):
                os.kill(int(pid), self.number)
                self.done = True
                return


WORKERS = {
    "record": "record.num_workers=1", "train": "data.num_workers=1",
    "evaluate": "evaluation.num_workers=1", "describe": "atlas.num_workers=1",
    "intervene": "intervention.num_workers=1",
}  # fmt: skip


@slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes in /proc")
@pytest.mark.parametrize("verb", WORKERS)
def test_a_worker_that_is_killed_for_memory(verb: str, command: Command, tmp_path: Path) -> None:
    kill = KillWorker()
    end = attack([*command(verb), WORKERS[verb]], tmp_path, watch=kill)
    assert kill.done
    assert_one_sentence(end, "worker process", "num_workers or batch_size")
    assert_good(attack(command(verb), tmp_path))


# --- other processes --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "verb", [pytest.param(v, marks=slow if v != "train" else ()) for v in FILES]
)
def test_two_commands_in_one_folder(verb: str, command: Command, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / ".lock"):
        end = attack(command(verb), tmp_path)
        assert_one_sentence(end, f"another process writes into {tmp_path / 'run'}")
    assert_good(attack(command(verb), tmp_path))


@slow
def test_a_lock_that_a_killed_command_left_holds_nobody_up(
    command: Command, tmp_path: Path
) -> None:
    def kill(child: int) -> None:
        if list(tmp_path.glob("run/latents/codes/part-*")):
            os.kill(child, signal.SIGKILL)

    assert attack(command("describe"), tmp_path, watch=kill).status == -signal.SIGKILL
    assert (tmp_path / "run" / ".lock").exists()
    assert_good(attack(command("describe"), tmp_path))


# --- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [b"caf\xe9.png", b"caf\xe9/a.png"])
def test_a_name_that_is_no_utf8(name: bytes, tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for place in (os.fsencode("train/a.png"), os.fsencode("val/b.png"), b"train/" + name):
        path = Path(os.fsdecode(os.path.join(os.fsencode(root), place)))  # noqa: PTH118
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            Image.new("RGB", (32, 32)).save(file, "png")
    line = [
        "record",
        *ALONE,
        "images=folder",
        f"images.roots=[{root}]",
        f"paths.outputs={tmp_path}/o",
    ]
    line = [word for word in line if word != "images.n_images=24"]
    assert_one_sentence(attack(line, tmp_path), "no UTF-8", "rename")


# --- checkpoints ------------------------------------------------------------------------------


@slow
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a checkpoint", b"text", None])
def test_a_checkpoint_that_is_no_more(
    content: bytes | None, command: Command, tmp_path: Path
) -> None:
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    end = attack(command("train"), tmp_path, Refusing("weights.safetensors", errno.EIO, tmp_path))
    assert_one_sentence(end)
    last.with_name("previous.ckpt").hardlink_to(last)
    if content is None:
        last.unlink()
    else:
        last.unlink()
        last.write_bytes(content)
    end = attack([*command("train"), f"ckpt_path={last}"], tmp_path)
    assert_one_sentence(end, str(last), "previous.ckpt" if content is not None else "not a file")
    older = last.with_name("previous.ckpt")
    assert_good(attack([*command("train"), f"ckpt_path={older}"], tmp_path))


@slow
def test_a_checkpoint_of_other_content(command: Command, tmp_path: Path) -> None:
    assert_good(attack(command("train"), tmp_path))
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    whole = torch.load(last, weights_only=True)
    weights = whole["state_dict"]
    more = ("trainer.max_steps=8", f"ckpt_path={tmp_path / 'odd.ckpt'}")
    for content in (
        weights, {"state_dict": weights}, {"state_dict": [1]}, [1], {**whole, "state_dict": {}},
        {**whole, "state_dict": {k: v * float("nan") for k, v in weights.items()}},
        {**whole, "optimizer_states": [{}]}, {**whole, "loops": 5}, {**whole, "callbacks": [1]},
        {**whole, "ActivationDataModule": {"position": "x"}},
        {**whole, "pytorch-lightning_version": 5},
    ):  # fmt: skip
        torch.save(content, tmp_path / "odd.ckpt")
        assert_one_sentence(attack([*command("train"), *more], tmp_path), "odd.ckpt")


# --- divergence -------------------------------------------------------------------------------


DIVERGING = [
    ("model.optimizer.lr=1e30",), ("model=batch_topk", "model.optimizer.lr=1e30"),
    ("model=jump_relu", "model.optimizer.lr=1e30"), ("model=gated", "model.optimizer.lr=1e30"),
    ("model=matryoshka", "model.optimizer.lr=1e30"), ("trainer.precision=16-true",),
    ("model.optimizer.lr=1e30", "trainer.log_every_n_steps=1000"),
]  # fmt: skip


def unchecked() -> None:
    """Values that no command takes, as Python calls may give them."""
    for name in ("saev.cli.command", "saev.cli.refusals"):
        vars(import_module(name))["refuse_values"] = nothing


@pytest.mark.parametrize(
    "more",
    [pytest.param(m, marks=slow, id=",".join(m)) for m in DIVERGING],
)
def test_a_training_that_diverges(more: Sequence[str], command: Command, tmp_path: Path) -> None:
    line = [*command("train"), "trainer.max_steps=40", *more]
    end = attack(line, tmp_path, unchecked)
    if more == ("trainer.precision=16-true",) and end.status == 0:
        weights = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
        assert all(
            w.isfinite().all() for w in weights["state_dict"].values() if w.is_floating_point()
        )
        return
    assert_one_sentence(end, "diverged", "model.optimizer.lr")
    assert not (tmp_path / "run" / "sae" / "weights.safetensors").exists()


@slow
def test_a_training_that_ends_worse_than_the_mean_says_so(command: Command, tmp_path: Path) -> None:
    line = [*command("train"), "model.optimizer.lr=1e3", "trainer.max_steps=20"]
    assert_good(attack(line, tmp_path, unchecked), "worse than the mean alone")


# --- stores -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(once: Once) -> Path:
    """An MLflow database that holds the experiment."""
    from saev.tracking.mlflow_store import open_store

    def fill(folder: Path) -> None:
        open_store(f"sqlite:///{folder / 'mlflow.db'}", "saev")

    return once("fault_store", fill) / "mlflow.db"


def lock(path: Path) -> None:
    """Another process holds the database from now on, until this one has ended."""
    parent, (told, tell) = os.getpid(), os.pipe()
    if os.fork() == 0:
        with closing(sqlite3.connect(path, timeout=30)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            os.write(tell, b"held")
            while os.getppid() == parent:
                time.sleep(0.02)
        os._exit(0)
    os.read(told, 4)


def fill_up(path: Path) -> None:
    """The disk of the database is full from now on."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    def refuse(*_: object) -> None:
        raise MlflowException("(sqlite3.OperationalError) database or disk is full")

    for name in ("log_batch", "set_tag", "set_terminated", "log_artifact", "log_artifacts"):
        setattr(MlflowClient, name, refuse)


@slow
@pytest.mark.parametrize("loss", [Path.unlink, lock, fill_up, empty])
@pytest.mark.parametrize("step", [1, 3])
def test_a_store_that_goes_away_in_the_middle(
    loss: Callable[[Path], object], step: int, store: Path, command: Command, tmp_path: Path
) -> None:
    own = tmp_path / "mlflow.db"
    shutil.copyfile(store, own)

    def inject() -> None:
        from saev.tracking import outbox

        outbox.LOCKED_SECONDS = 0.2
        at_step(step, lambda: loss(own))()

    line = [*command("train"), "logger=mlflow", f"logger.tracking_uri=sqlite:///{own}"]
    end = attack(line, tmp_path, inject)
    assert_good(end)
    log = (tmp_path / "run" / "train.log").read_text()
    assert log.count("does not answer") == 1, log
    for name in ("sae/weights.safetensors", "metrics.json", "untracked.jsonl"):
        assert (tmp_path / "run" / name).exists(), name


@slow
@pytest.mark.parametrize("content", [b"garbage" * 100, b""])
def test_a_file_that_is_no_store(content: bytes, command: Command, tmp_path: Path) -> None:
    own = tmp_path / "mlflow.db"
    own.write_bytes(content)
    line = [*command("train"), "logger=mlflow", f"logger.tracking_uri=sqlite:///{own}"]
    end = attack(line, tmp_path)
    if content:
        assert_one_sentence(end, "store")
    else:
        assert_good(end)  # an empty file is an empty database


# --- signals ----------------------------------------------------------------------------------


class Signals:
    """Sends signals, one after the other, once a file matches the pattern."""

    def __init__(self, folder: Path, pattern: str, *numbers: int) -> None:
        self.folder, self.pattern, self.numbers = folder, pattern, list(numbers)

    def __call__(self, child: int) -> None:
        if self.numbers and any(self.folder.rglob(self.pattern)):
            for number in self.numbers:
                os.kill(child, number)
            self.numbers = []


SIGNS = {
    "record": "train-000000.tar", "train": "last.ckpt", "evaluate": "config.yaml",
    "describe": "part-000000*", "intervene": "registered.json",
}  # fmt: skip
TERM, INT = signal.SIGTERM, signal.SIGINT


@pytest.mark.parametrize(
    ("verb", "numbers"),
    [
        pytest.param(verb, numbers, marks=() if (verb, numbers) == ("record", (INT,)) else slow)
        for verb in SIGNS
        for numbers in ((INT,), (TERM,), (INT, INT, INT), (TERM, INT, TERM))[
            :: 1 if verb in ("record", "train") else 2
        ]
    ],
)
def test_a_signal_stops_any_command_with_one_sentence(
    verb: str, numbers: tuple[int, ...], command: Command, tmp_path: Path
) -> None:
    line = command(verb)
    if verb == "train":
        line += ["trainer.max_steps=100000", "trainer.val_check_interval=50000"]
    end = attack(line, tmp_path, watch=Signals(tmp_path / ("new" if verb == "record" else "run"),
                                               SIGNS[verb], *numbers))  # fmt: skip
    # pending signals are handled in the order of their numbers
    assert end.status in {128 + number for number in numbers}, end.stderr[-2000:]
    assert "Traceback" not in end.stderr + end.stdout
    assert len(end.said) == 1 and end.said[0].startswith("stopped before the end"), end.stderr
    if verb == "train":
        assert f"ckpt_path={tmp_path / 'run' / 'checkpoints' / 'last.ckpt'}" in end.said[0]
    if len(numbers) == 1:
        assert_good(attack(command(verb), tmp_path))


@slow
@pytest.mark.parametrize("number", [INT, TERM])
def test_a_stopped_training_goes_on_to_the_same_end(
    number: int, command: Command, tmp_path: Path
) -> None:
    line = [*command("train"), "trainer.max_steps=40", "trainer.val_check_interval=20"]
    whole = [*line, f"hydra.run.dir={tmp_path / 'whole'}"]
    assert_good(attack(whole, tmp_path))
    stop = at_step(7, lambda: os.kill(os.getpid(), number))
    assert attack(line, tmp_path, stop).status == 128 + number
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 7
    assert_good(attack([*line, f"ckpt_path={last}"], tmp_path))
    for name in ("sae/weights.safetensors", "sae/config.json", "metrics.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


@slow
@pytest.mark.parametrize("verb", ["record", "train"])
def test_a_signal_that_python_swallows_stops_it_all_the_same(
    verb: str, command: Command, tmp_path: Path
) -> None:
    class Deaf:
        def __del__(self) -> None:
            os.kill(os.getpid(), TERM)

    def inject() -> None:
        from datamodules.activations.tar import ShardWriter

        if verb == "train":
            return at_step(2, lambda: Deaf() and None)()
        real = ShardWriter.close

        def close(self: ShardWriter) -> None:
            real(self)
            Deaf()

        ShardWriter.close = close  # type: ignore[method-assign]
        return None

    end: End = attack(command(verb), tmp_path, inject)
    assert end.status == 128 + TERM, end.stderr[-2000:]
    assert end.said[-1].startswith("stopped before the end")
