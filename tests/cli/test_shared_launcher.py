"""``hydra/launcher=shared``: a sweep on one stream equals separate runs, stops, goes on, fails alone."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from datamodules.activations import stream
from saev.errors import UserError
from saev.sae import SparseAutoencoder
from saev.training.sae_module import SAETraining
from tests.fakes.checkpoints import differences
from tests.fakes.commands import TINY, assert_sentence, in_process

MORE = ("evaluation.fidelity=false", "evaluation.figures=false", "record.num_workers=0")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return SparseAutoencoder.from_pretrained(folder / "sae").state_dict()


def members(sweep: Path) -> list[Path]:
    return sorted(path for path in sweep.iterdir() if path.is_dir())


def equal(a: Path, b: Path) -> bool:
    one, two = weights(a), weights(b)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_members_equal_separate_runs_to_the_bit(tmp_path: Path, monkeypatch) -> None:
    """Read with a worker process, as by default; each member with a run of its own under the parent."""
    base = ("-m", *TINY, *MORE, f"paths.outputs={tmp_path}")
    store = f"sqlite:///{tmp_path}/mlflow.db"
    status = in_process(
        "train", *base, "model.k=4,8,16", "model.dead_after_tokens=300", "hydra/launcher=shared",
        f"hydra.sweep.dir={tmp_path}/shared", "logger=mlflow", f"logger.tracking_uri={store}",
    )  # fmt: skip
    assert status is None
    shared = members(tmp_path / "shared")
    assert len(shared) == 3
    for k, folder in zip((4, 8, 16), shared, strict=True):
        alone = tmp_path / f"alone{k}"
        in_process(
            "train", *TINY, *MORE, f"paths.outputs={tmp_path}", f"model.k={k}",
            "model.dead_after_tokens=300", f"hydra.run.dir={alone}",
        )  # fmt: skip
        assert equal(folder, alone)
        found, expected = (
            json.loads((one / "metrics.json").read_text()) for one in (folder, alone)
        )
        assert found == expected
        assert (folder / "checkpoints" / "last.ckpt").is_file() and (folder / "train.log").is_file()
    from mlflow.tracking import MlflowClient

    client = MlflowClient(store)
    (experiment,) = client.search_experiments(filter_string="name = 'saev'")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run is not parent]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert sorted(run.data.params["model.k"] for run in children) == ["16", "4", "8"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert len(client.get_metric_history(parent.info.run_id, "objective")) == 3


def test_a_shard_is_read_once_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three members read no more of the training tars than one; another batch size is another stream."""
    opened: list[str] = []
    real = stream.iter_samples

    def counted(location, shard, *args, **kwargs):
        opened.append(shard.name)
        return real(location, shard, *args, **kwargs)

    monkeypatch.setattr(stream, "iter_samples", counted)
    base = (
        *TINY,
        *MORE,
        "data.num_workers=0",
        "evaluation.num_workers=0",
        f"paths.outputs={tmp_path}",
    )
    assert in_process("train", *base, f"hydra.run.dir={tmp_path}/one") is None
    once = len(opened)
    opened.clear()
    shared = ("-m", *base, "hydra/launcher=shared", "seed=0,1,2")
    assert in_process("train", *shared, f"hydra.sweep.dir={tmp_path}/three") is None
    assert len(opened) == once
    opened.clear()
    sizes = ("-m", *base, "hydra/launcher=shared", "data.batch_size=256,128")
    assert in_process("train", *sizes, f"hydra.sweep.dir={tmp_path}/sizes") is None
    assert len(opened) > once


def test_a_member_that_fails_ends_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = SAETraining._log_step

    def planted(self: SAETraining, *args) -> None:
        if self.sae.cfg.k == 8 and self.global_step > 1:
            raise UserError("the training diverged: planted")
        real(self, *args)

    monkeypatch.setattr(SAETraining, "_log_step", planted)
    status = in_process(
        "train", "-m", *TINY, *MORE, "data.num_workers=0", "evaluation.num_workers=0",
        "hydra/launcher=shared", "model.k=8,4", f"paths.outputs={tmp_path}",
        f"hydra.sweep.dir={tmp_path}/sweep",
    )  # fmt: skip
    assert_sentence(status, "the training diverged: planted")
    bad, good = members(tmp_path / "sweep")
    assert (good / "metrics.json").is_file() and not (bad / "metrics.json").exists()


def test_another_command_refuses_it(tmp_path: Path) -> None:
    status = in_process(
        "record", "-m", "images.n_images=8,9", "hydra/launcher=shared", f"paths.outputs={tmp_path}"
    )
    assert_sentence(status, "hydra/launcher=shared", "saev.train")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_sweep_that_was_ended_goes_on_where_it_was(tmp_path: Path, how: signal.Signals) -> None:
    """With worker processes. Members of which one is a checkpoint ahead meet again."""
    sweep = tmp_path / "sweep"
    base = [
        *TINY, *MORE, f"paths.outputs={tmp_path}", "trainer.max_steps=60", "model.k=4,8",
        "trainer.val_check_interval=20", "callbacks.last.every_n_train_steps=10", "logger=none",
        "hydra/launcher=shared",
    ]  # fmt: skip
    command = [sys.executable, "-m", "saev.train", "-m", *base, f"hydra.sweep.dir={sweep}"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 240
    while len(list(sweep.rglob("last.ckpt"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(how)
    _, said = process.communicate(timeout=120)
    assert process.returncode == (-9 if how == signal.SIGKILL else 130)
    if how == signal.SIGINT:
        assert "hydra.launcher.resume=true" in said
        ends = [torch.load(path, weights_only=True) for path in sweep.rglob("last.ckpt")]
        assert len({end["global_step"] for end in ends}) == 1 and len(ends) == 2
        return
    done = subprocess.run(
        [*command, "hydra.launcher.resume=true"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    whole = [one if not one.startswith("hydra.sweep") else f"hydra.sweep.dir={tmp_path}/whole"
             for one in command]  # fmt: skip
    assert subprocess.run(whole, capture_output=True, timeout=300).returncode == 0
    for one, two in zip(members(sweep), members(tmp_path / "whole"), strict=True):
        assert equal(one, two)
        ends = (
            torch.load(path / "checkpoints" / "last.ckpt", weights_only=True) for path in (one, two)
        )
        first, second = ({k: end[k] for k in ("state_dict", "optimizer_states")} for end in ends)
        assert not differences(first, second)
    again = subprocess.run(
        [*command, "hydra.launcher.resume=true"], capture_output=True, text=True, timeout=300
    )
    assert again.returncode == 0 and "has ended before" in again.stdout + again.stderr
