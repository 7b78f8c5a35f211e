"""Checkpoints that appear whole, a stop at a batch's end, and a training that diverges."""

import errno
import os
import signal
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from saev import stopping
from saev.errors import UserError
from saev.training.resume_points import (
    StopAtBatchEnd,
    WholeCheckpoints,
    refuse_divergence,
    require_finite,
    write_whole,
)
from tests.fakes.planted import LIGHTNING_WARNINGS, activations, fit, make_module

pytestmark = LIGHTNING_WARNINGS


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def kept(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def test_the_checkpoint_before_the_last_stays(tmp_path: Path) -> None:
    writer, last = WholeCheckpoints(), tmp_path / "new" / "last.ckpt"
    for step in range(3):
        writer.save_checkpoint({"global_step": step}, last)
        writer.save_checkpoint({"global_step": step}, last.with_name("best.ckpt"))
    assert files_in(last.parent) == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    assert kept(last) == {"global_step": 2}
    assert kept(last.with_name("previous.ckpt")) == {"global_step": 1}


def test_without_hard_links_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    writer, last = WholeCheckpoints(), tmp_path / "last.ckpt"
    for step in range(2):
        writer.save_checkpoint({"global_step": step}, last)
    assert kept(last) == {"global_step": 1}
    assert kept(tmp_path / "previous.ckpt") == {"global_step": 0}


@pytest.mark.parametrize("n_bytes", [0, 100, 5000])
def test_a_disk_that_fills_up_leaves_the_old_one_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_bytes: int
) -> None:
    writer, last = WholeCheckpoints(), tmp_path / "last.ckpt"
    writer.save_checkpoint({"global_step": 0}, last)
    before = files_in(tmp_path)
    real = Path.open

    def fill(self: Path, mode: str = "r", *arguments: Any, **more: Any) -> Any:
        file = real(self, mode, *arguments, **more)
        return Full(file, n_bytes) if "w" in mode else file

    monkeypatch.setattr(Path, "open", fill)
    monkeypatch.setenv("TMPDIR", "/nowhere")
    with pytest.raises(OSError, match=r"last\.ckpt") as info:
        writer.save_checkpoint({"weights": torch.zeros(10_000)}, last)
    assert info.value.errno == errno.ENOSPC and info.value.filename == str(last)
    assert files_in(tmp_path) == before and kept(last) == {"global_step": 0}


class Full:
    """A file on a disk with room for so many bytes."""

    def __init__(self, file: Any, n_bytes: int) -> None:
        self.file, self.room = file, n_bytes

    def write(self, data: Any) -> int:
        self.room -= len(memoryview(data).cast("B"))
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> "Full":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def test_a_trainer_writes_whole_ones(tmp_path: Path) -> None:
    data = activations(64 * 4)
    run = fit(make_module(data), data)
    write_whole(run)
    assert isinstance(run.strategy.checkpoint_io, WholeCheckpoints)
    run.save_checkpoint(tmp_path / "last.ckpt")
    assert kept(tmp_path / "last.ckpt")["global_step"] == 4


class Signal(L.Callback):
    """Sends this process a signal before a step's batch."""

    def __init__(self, at_step: int, number: int = signal.SIGTERM) -> None:
        self.at_step, self.number = at_step, number

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.at_step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_at_the_batch_s_end_and_the_rest_is_as_if_there_had_been_none(
    tmp_path: Path, number: int
) -> None:
    data, last = activations(64 * 9), tmp_path / "last.ckpt"
    whole, stopped, resumed = (make_module(data) for _ in range(3))
    fit(whole, data)
    with stopping.listening(), stopping.at_batch_ends():
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fit(stopped, data, callbacks=[Signal(4, number), StopAtBatchEnd(last)])
        assert stopping.exit_status() == 128 + number
        assert stopping.advice() == f"go on with ckpt_path={last}"
    assert kept(last)["global_step"] == 5
    fit(resumed, data, start=5, ckpt_path=str(last))
    for name, weights in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], weights), name


def test_a_long_validation_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = StopAtBatchEnd(None)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    with stopping.listening(), stopping.at_batch_ends():
        stop.on_validation_batch_end(trainer)
        os.kill(os.getpid(), signal.SIGTERM)
        stop.on_validation_batch_end(trainer)  # it may end first
        monkeypatch.setattr(stopping, "seconds_since_asked", lambda: 11.0)
        with pytest.raises(KeyboardInterrupt):
            stop.on_validation_batch_end(trainer)


@pytest.mark.parametrize(("every", "step"), [(1, 1), (5, 4), (1000, 20)])
def test_a_diverging_training_ends_with_a_sentence_at_the_next_log_or_at_its_end(
    tmp_path: Path, every: int, step: int
) -> None:
    data = activations(64 * 20)
    module = make_module(data, lr=1e30)
    with pytest.raises(UserError) as info:
        fit(module, data, log_every_n_steps=every, default_root_dir=tmp_path)
    text = str(info.value)
    assert f"the loss is not finite at step {step} " in text
    assert "learning rate 1e+30, trainer.precision=32-true" in text
    assert "there is no checkpoint from before" in text


def test_no_checkpoint_holds_weights_that_are_not_finite(tmp_path: Path) -> None:
    data = activations(64 * 2)
    module = make_module(data)
    run = fit(module, data, default_root_dir=tmp_path)
    run.save_checkpoint(tmp_path / "checkpoints" / "best.ckpt")
    module.sae.W_dec.data[3, 1] = float("inf")
    with pytest.raises(UserError, match=r"W_dec is not finite at step 2 .*best.ckpt, is of step 2"):
        run.save_checkpoint(tmp_path / "last.ckpt")
    assert not (tmp_path / "last.ckpt").exists()
    with pytest.raises(UserError, match=r"not exported: W_dec is not finite"):
        require_finite(module.sae)
    refuse_divergence(run, "the loss", torch.tensor(1e38))
