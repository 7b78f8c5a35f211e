"""The data module: checks before training, statistics, position over resumes, URLs."""

import contextlib
import itertools
import json
import os
import re
import threading
from collections import Counter
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import lightning as L
import numpy as np
import pytest
import torch

from datamodules.activations import ActivationDataModule, remote
from datamodules.activations.verify import verify
from saev.errors import UserError
from saev.sae.config import SAEConfig
from tests.fakes.activations import tagged, tags, write_folder

SETTINGS = {
    "batch_size": 8, "reservoir_tokens": 24, "num_workers": 0, "max_norm": None, "seed": 0,
    "drop_last": True, "verify_checksums": True,
}  # fmt: skip


def data_of(folder, **kw) -> ActivationDataModule:
    return ActivationDataModule(folder, **{**SETTINGS, **kw})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(tmp_path / "tars", tagged(6, 3, 5), tagged(2, 2, 5))
    return tmp_path / "tars"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:3000])  # into the second image


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [(cut, "bytes where the manifest says"), (flip, "SHA-256"), (Path.unlink, "is missing")],
)
@pytest.mark.parametrize("name", ["train-000002.tar", "heldout-000001.tar"])
def test_damage_is_found_before_training_and_names_the_shard(folder, damage, message, name):
    damage(folder / name)
    with pytest.raises(UserError, match=rf"{re.escape(name)} .*{message}.*delete it and run"):
        data_of(folder).prepare_data()
    faults = verify(folder, progress=False)
    assert len(faults) == 1
    assert name in faults[0]


def test_every_bad_shard_is_reported_and_a_good_folder_has_none(folder: Path):
    assert verify(folder, progress=False) == []
    flip(folder / "train-000001.tar")
    cut(folder / "train-000003.tar")
    assert len(verify(folder, progress=False)) == 2
    # without checksums only the sizes are looked at
    assert len(verify(folder, checksums=False, progress=False)) == 1


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("name", ["train-000002.tar", "heldout-000001.tar"])
def test_a_byte_that_flips_while_training_runs_is_found_when_the_shard_is_read_again(
    folder: Path, name: str, num_workers: int
) -> None:
    data = data_of(folder, num_workers=num_workers)
    data.prepare_data()
    for shard in folder.glob("*.tar"):
        shard.touch()  # nothing but the times change
    list(itertools.islice(data.train_dataloader(), 24))
    list(data.val_dataloader())
    before = (folder / name).stat()
    flip(folder / name)
    os.utime(folder / name, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(UserError, match=rf"{name} has changed since it was recorded; delete it"):
        list(itertools.islice(data.train_dataloader(), 24))
        list(data.val_dataloader())


@pytest.mark.parametrize("num_workers", [0, 1])
def test_damage_that_appears_later_stops_training_with_one_sentence(folder, num_workers: int):
    data = data_of(folder, num_workers=num_workers)
    data.prepare_data()
    cut(folder / "train-000002.tar")
    with pytest.raises(UserError, match=r"train-000002\.tar is (damaged|cut off)") as caught:
        list(itertools.islice(data.train_dataloader(), 12))
    assert "\n" not in str(caught.value)


def test_an_sae_for_other_activations_is_refused(folder: Path):
    data = data_of(folder)
    right = {"family": "tiny", "name": "Tiny", "weights_sha256": "ab" * 32}
    cfg = SAEConfig(d_model=3, d_sae=8, k=2, backbone=right, layer=1)
    data.check_backbone(cfg)
    data.check_backbone(replace(cfg, backbone=None, layer=None))
    wrong = [
        (replace(cfg, layer=2), "layer 1"),
        (replace(cfg, d_model=4), "width 3"),
        (replace(cfg, backbone={**right, "name": "Other"}), "name Tiny"),
        (replace(cfg, backbone={**right, "weights_sha256": "cd" * 32}), "SHA-256 ab"),
    ]
    for other, message in wrong:
        with pytest.raises(UserError, match=message):
            data.check_backbone(other)


def test_another_limit_on_norms_needs_no_new_recording(tmp_path: Path):
    generator = np.random.default_rng(0)
    shards = [[generator.standard_normal((50, 4)).astype(np.float32)] for _ in range(3)]
    manifest = write_folder(tmp_path, shards, max_norm=None)
    statistics = data_of(tmp_path, max_norm=1.0).statistics
    acts = np.concatenate([image for shard in shards for image in shard]).astype(np.float64)
    limit = manifest.statistics.median_norm
    assert statistics.max_norm == limit
    normal = acts[np.linalg.norm(acts, axis=1) <= limit]
    assert statistics.n_normal == len(normal) == sum(statistics.n_normal_per_shard)
    np.testing.assert_allclose(statistics.mean, normal.mean(0), rtol=1e-5)
    centred = normal - normal.mean(0)
    assert np.square(statistics.scale * centred).sum(1).mean() == pytest.approx(4, rel=1e-5)
    # kept beside the tars: the second time no tar is opened
    for path in tmp_path.glob("*.tar"):
        path.unlink()
    assert data_of(tmp_path, max_norm=1.0).statistics == statistics
    assert data_of(tmp_path).statistics == manifest.statistics


def test_a_limit_that_leaves_nothing_or_no_differences_is_an_error(tmp_path: Path):
    write_folder(tmp_path / "a", tagged(1, 2, 5))
    with pytest.raises(UserError, match=r"raise tokens\.max_norm"):
        _ = data_of(tmp_path / "a", max_norm=1e-6).statistics
    with pytest.raises(UserError, match="are equal"):
        write_folder(tmp_path / "b", [[np.ones((4, 3), np.float16)]])


@pytest.mark.parametrize(
    ("settings", "message"), [({"max_norm": -1.0}, "max_norm=-1"), ({"num_workers": -1}, "=-1")]
)
def test_settings_out_of_range_are_refused(folder, settings, message):
    with pytest.raises(ValueError, match=message):
        data_of(folder, **settings)


def test_workers_are_no_more_than_the_shards_can_feed(folder: Path):
    assert data_of(folder, num_workers=50).train_dataloader().num_workers == 6


class Watching(L.LightningModule):
    """Learns one number and remembers which tokens it saw in which step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: dict[int, list[int]] = {}
        self.out = Path()
        self.validated: list[int] = []

    def training_step(self, batch, batch_idx):
        assert batch.acts.dtype == torch.float32
        self.seen[self.global_step] = tags(batch.acts)
        return (self.weight - 1) ** 2

    def validation_step(self, batch, batch_idx):
        self.validated += tags(batch.acts)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class EveryFiveSteps(L.Callback):
    """Saves when ``ModelCheckpoint`` would."""

    def on_train_batch_end(self, trainer, module, *args) -> None:
        if trainer.global_step % 5 == 0:
            trainer.save_checkpoint(module.out / f"step={trainer.global_step}.ckpt")


def fit(folder: Path, max_steps: int, ckpt_path=None, num_workers: int = 0, **kw) -> Watching:
    module, data = Watching(), data_of(folder, num_workers=num_workers)
    n_runs = len(list(folder.parent.glob("run*")))
    module.out = folder.parent / f"run{n_runs}"
    trainer = L.Trainer(
        max_steps=max_steps,
        accelerator="cpu",
        logger=False,
        callbacks=[EveryFiveSteps()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"val_check_interval": 4, "check_val_every_n_epoch": None, **kw},
    )
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
    return module


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_run_sees_what_an_undisturbed_one_would(folder: Path, num_workers: int):
    whole = fit(folder, 23, num_workers=num_workers)
    # the second checkpoint is written by a run that was itself resumed
    path = fit(folder, 10, whole.out / "step=5.ckpt", num_workers).out / "step=10.ckpt"
    resumed = fit(folder, 23, path, num_workers)
    assert sorted(whole.seen) == list(range(23))
    assert sorted(resumed.seen) == list(range(10, 23))
    assert resumed.seen == {step: whole.seen[step] for step in resumed.seen}
    state = torch.load(path, weights_only=True)["ActivationDataModule"]
    assert state["position"] == 10


def test_validation_sees_every_held_out_token_in_order(folder: Path):
    module = fit(folder, 4, num_sanity_val_steps=0)
    assert module.validated == list(range(20))


def test_a_trainer_epoch_does_not_begin_the_data_again(folder: Path):
    kw = {"val_check_interval": None, "check_val_every_n_epoch": 1}
    in_epochs = fit(folder, 9, limit_train_batches=3, **kw)
    assert in_epochs.seen == fit(folder, 9).seen


def test_a_position_in_other_batches_is_pointed_out(folder: Path):
    state = {**data_of(folder).state_dict(), "position": 3}
    other = data_of(folder, seed=1)
    with pytest.warns(UserWarning, match="trained with seed=0, this run has 1"):
        other.load_state_dict(state)
    assert other.position == 3


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def url(folder: Path):
    handler = partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_a_url_gives_what_the_folder_gives(folder: Path, url: str):
    def batches(where) -> list[list[int]]:
        data = data_of(where)
        data.prepare_data()
        data.setup("fit")
        training = itertools.islice(data.train_dataloader(), 20)
        return [tags(b.acts) for b in itertools.chain(training, data.val_dataloader())]

    assert batches(url) == batches(folder)
    assert verify(url, progress=False) == []
    flip(folder / "train-000001.tar")
    assert len(verify(url, progress=False)) == 1
    (folder / "train-000001.tar").unlink()
    assert "cannot be read" in verify(url, progress=False)[0]
    with pytest.raises(UserError, match=r"train-000001\.tar is missing"):
        list(itertools.islice(data_of(url).train_dataloader(), 12))


class Flaky(Quiet):
    """Counts what is asked of it; the first answers for a tar are no good."""

    asked: ClassVar[Counter] = Counter()
    n_bad = 0

    def do_GET(self) -> None:
        self.asked[self.path] += 1
        if self.path.endswith(".tar") and self.asked[self.path] <= self.n_bad:
            if self.asked[self.path] % 2:
                self.send_error(503)
            else:  # cut off
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"half of it")
            return
        super().do_GET()


@pytest.fixture
def flaky(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(Flaky, "asked", Counter())
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Flaky, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def held(folder: Path) -> int:
    """Bytes of the copies; the next one may take the place of one while they are counted."""
    total = 0
    for path in folder.glob("*.tar"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def some_batches(data: ActivationDataModule, n: int = 40) -> list[list[int]]:
    data.prepare_data()
    data.setup("fit")
    return [tags(b.acts) for b in itertools.islice(data.train_dataloader(), n)]


@pytest.mark.parametrize("n_workers", [0, 2])
def test_remote_tars_are_fetched_once_and_in_spite_of_bad_answers(
    folder: Path, flaky: str, tmp_path: Path, monkeypatch, n_workers: int
):
    monkeypatch.setattr(Flaky, "n_bad", 3)
    kw = {"cache_dir": tmp_path / "cache", "cache_gb": 1, "num_workers": n_workers}
    expected = some_batches(data_of(folder, num_workers=n_workers))
    assert some_batches(data_of(flaky, **kw)) == expected
    tars = {path: n for path, n in Flaky.asked.items() if "train" in path}
    assert len(tars) == 6 and set(tars.values()) == {4}
    assert some_batches(data_of(flaky, **kw)) == expected  # another run asks for the manifest alone
    assert {path: n for path, n in Flaky.asked.items() if "train" in path} == tars
    assert not list((tmp_path / "cache").glob("*.tmp"))


def test_remote_copies_stay_within_their_bound(folder: Path, flaky: str, tmp_path: Path):
    sizes = [path.stat().st_size for path in folder.glob("train*.tar")]
    bound = 2.5 * max(sizes)
    data = data_of(flaky, cache_dir=tmp_path / "cache", cache_gb=bound / 1e9)
    data.prepare_data()
    data.setup("fit")
    expected = some_batches(data_of(folder))
    for batch, of_folder in zip(data.train_dataloader(), expected, strict=False):
        assert tags(batch.acts) == of_folder
        assert held(tmp_path / "cache") <= bound
    assert max(Flaky.asked.values()) > 1
    small = data_of(flaky, cache_dir=tmp_path / "none", cache_gb=100 / 1e9)  # every tar is larger
    assert some_batches(small) == expected and not list((tmp_path / "none").glob("*.tar"))


def test_a_remote_tar_that_is_another_file_or_gone_is_refused(
    folder: Path, flaky: str, tmp_path: Path, monkeypatch
):
    kw = {"cache_dir": tmp_path / "cache", "cache_gb": 1}
    flip(folder / "train-000001.tar")
    with pytest.raises(UserError, match=r"train-000001\.tar came with another SHA-256"):
        some_batches(data_of(flaky, **kw))
    with pytest.raises(UserError, match=r"train-000001\.tar has changed"):  # without copies
        some_batches(data_of(flaky))
    (folder / "train-000001.tar").unlink()
    with pytest.raises(UserError, match=r"train-000001\.tar is missing"):
        some_batches(data_of(flaky, **kw))
    monkeypatch.setattr(Flaky, "n_bad", 99)
    with pytest.raises(UserError, match="after 5 attempts"):
        some_batches(data_of(flaky, cache_dir=tmp_path / "other", cache_gb=1))


def test_any_file_system_of_fsspec_will_do(folder: Path):
    import fsspec  # stands for s3://, which needs a server

    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/tars", recursive=True)
    remote, local = (
        [tags(b.acts) for b in itertools.islice(data_of(where).train_dataloader(), 20)]
        for where in ("memory://tars", folder)
    )
    assert remote == local


def test_a_url_without_manifest_or_server_is_one_sentence(folder: Path, url: str):
    (folder / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"no manifest\.json"):
        _ = data_of(url).manifest
    with pytest.raises(UserError, match="cannot be read"):
        _ = data_of("http://127.0.0.1:9/nothing").manifest


def test_the_cached_statistics_are_plain_json(folder: Path):
    _ = data_of(folder, max_norm=2.5).statistics
    (path,) = folder.glob("statistics-*.json")
    assert json.loads(path.read_text())["max_norm_multiple"] == 2.5
