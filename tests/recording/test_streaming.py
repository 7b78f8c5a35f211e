"""A stream of images: what recorded tars hold, each token once an epoch, resumed to the bit."""

import io
import itertools
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datamodules.activations.format import Manifest
from datamodules.activations.tar import iter_samples
from saev.errors import UserError
from saev.recording import streaming
from saev.recording.streaming import Beside, StreamingActivations
from saev.sae import SparseAutoencoder
from tests.fakes.backbone import TinyBackbone
from tests.fakes.commands import ALONE, assert_sentence, in_process
from tests.fakes.images import TinyImages
from tests.fakes.recording import run

DEFAULTS = {
    "batch_size": 7, "reservoir_tokens": 20, "images_per_batch": 3, "num_workers": 0, "seed": 0,
    "max_norm": 3.0, "statistics_images": 1000, "heldout_tokens": 1000,
}  # fmt: skip


def data_of(**kw) -> StreamingActivations:
    backbone = TinyBackbone()
    backbone.layer = 1
    data = StreamingActivations(backbone, TinyImages(), **{**DEFAULTS, **kw})
    data.prepare_data()
    data.setup("fit")
    return data


def recorded(folder: Path, split: str, **kw) -> tuple[Manifest, np.ndarray]:
    path = run(folder, layers=(1,), **kw)[1]
    manifest = Manifest.read(path)
    samples = [s.acts for shard in manifest.of_split(split) for s in iter_samples(path, shard)]
    return manifest, np.concatenate(samples)


def rows(acts) -> Counter:
    return Counter(np.asarray(acts, np.float16).tobytes()[i : i + 2 * acts.shape[1]]
                   for i in range(0, 2 * np.asarray(acts).size, 2 * acts.shape[1]))  # fmt: skip


def drawn(data: StreamingActivations, n: int) -> list[torch.Tensor]:
    return [batch.acts for batch in itertools.islice(iter(data.train_dataloader()), n)]


def test_statistics_and_held_out_tokens_are_those_of_tars(tmp_path: Path) -> None:
    data = data_of()
    manifest, held_out = recorded(tmp_path, "heldout")
    of_tars, found = manifest.statistics, data.statistics
    assert (found.n_tokens, found.n_normal) == (of_tars.n_tokens, of_tars.n_normal)
    assert found.median_norm == of_tars.median_norm and found.max_norm == of_tars.max_norm
    np.testing.assert_allclose(found.mean, of_tars.mean, rtol=1e-5, atol=1e-6)
    assert found.scale == pytest.approx(of_tars.scale, rel=1e-5)
    seen = torch.cat([batch.acts for batch in data.val_dataloader()])
    assert rows(seen) == rows(held_out)
    assert len(list(data.val_dataloader())) == len(data.val_dataloader())
    assert len(data_of(heldout_tokens=5).heldout) == 5


@pytest.mark.parametrize("n_per_image", [None, 2])
def test_each_normal_token_comes_once_an_epoch_and_nothing_held_out(
    tmp_path: Path, n_per_image: int | None
) -> None:
    data = data_of(n_per_image=n_per_image, batch_size=4, reservoir_tokens=9)
    manifest, train = recorded(tmp_path, "train", n_per_image=n_per_image)
    norms = np.linalg.norm(train.astype(np.float32), axis=1)
    normal = rows(train[norms <= manifest.statistics.max_norm])
    n_batches = sum(normal.values()) // 4
    epochs = drawn(data, 2 * n_batches)
    first, second = (torch.cat(epochs[i : i + n_batches]) for i in (0, n_batches))
    for epoch in (first, second):
        assert rows(epoch) <= normal
        assert sum(normal.values()) - len(epoch) < 4
    assert not torch.equal(first, second)
    assert all(torch.equal(a, b) for a, b in zip(drawn(data_of(
        n_per_image=n_per_image, batch_size=4, reservoir_tokens=9), 5), epochs, strict=False))  # fmt: skip
    assert not torch.equal(drawn(data_of(n_per_image=n_per_image, seed=1), 1)[0][:4], first[:4])


@pytest.mark.parametrize("position", [0, 1, 5, 9, 13, 22])
@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_a_stream_goes_on_from_a_checkpoint_to_the_bit(position: int, ahead: int) -> None:
    """Though the trainer had asked for batches that it had not trained on yet."""
    data = data_of()
    expected = drawn(data_of(), position + 12)
    batches = iter(data.train_dataloader())
    for _ in range(position + ahead):
        next(batches)
    file = io.BytesIO()
    state = {**data.state_dict(), "position": position, "stream": data.stream_state(position)}
    torch.save(state, file)
    file.seek(0)
    resumed = data_of()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    found = [batch.acts for batch in itertools.islice(iter(resumed.train_dataloader()), 12)]
    assert all(torch.equal(a, b) for a, b in zip(found, expected[position:], strict=True))


def test_a_thread_makes_the_same_batches_and_its_errors_arrive() -> None:
    expected, found = drawn(data_of(), 20), drawn(data_of(beside=True), 20)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))

    def failing():
        yield 1
        raise ZeroDivisionError("in the thread")

    made = Beside(failing(), 2)
    assert next(made) == 1
    with pytest.raises(ZeroDivisionError, match="in the thread"):
        next(made)
    with pytest.raises(StopIteration):
        next(made)
    endless = Beside(itertools.count(), 1)
    assert next(endless) == 0
    endless.close()
    endless._thread.join(timeout=5)
    assert not endless._thread.is_alive()


def test_the_pool_is_of_normal_training_tokens_of_many_images(tmp_path: Path) -> None:
    data = data_of()
    _, train = recorded(tmp_path, "train")
    pool = data.pool(30)
    assert pool.shape == (30, data.width) and rows(pool) <= rows(train)
    data.trainer = SimpleNamespace(  # pyright: ignore
        global_rank=0, world_size=1, fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(
            batch_progress=SimpleNamespace(total=SimpleNamespace(processed=0)))))  # fmt: skip
    next(iter(data.train_dataloader()))
    assert data._seen == []  # not held while training goes on


def test_what_cannot_be_done_is_said() -> None:
    with pytest.raises(ValueError, match=r"data.reservoir_tokens=5 must be at least"):
        data_of(reservoir_tokens=5)
    data = data_of()
    data.load_state_dict({"position": 3, **data.order()})
    with pytest.raises(UserError, match="left by data=tars"):
        next(iter(data.train_dataloader()))


STREAM = (*(one for one in ALONE if "images_per_shard" not in one), "data=streaming",
          "evaluation.fidelity=false", "evaluation.figures=false")  # fmt: skip


def test_a_run_on_a_stream_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    """With the command: nothing is recorded, and a checkpoint half way leads to the same dictionary."""
    more = (
        "trainer.max_steps=6", "callbacks.last.every_n_train_steps=3", "callbacks.last.save_top_k=-1",
        "callbacks.last.filename='at-{step}'", f"paths.outputs={tmp_path}", f"hydra.run.dir={tmp_path}/run",
    )  # fmt: skip
    assert in_process("train", *STREAM, *more) is None
    assert not (tmp_path / "activations").exists()
    one = SparseAutoencoder.from_pretrained(tmp_path / "run" / "sae")
    half = tmp_path / "run" / "checkpoints" / "at-step=3.ckpt"
    half.rename(tmp_path / "half.ckpt")
    shutil.rmtree(tmp_path / "run")
    assert in_process("train", *STREAM, *more, f"ckpt_path={tmp_path}/half.ckpt") is None
    two = SparseAutoencoder.from_pretrained(tmp_path / "run" / "sae")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert one.cfg.layer is not None and one.cfg.manifest_id is None
    assert one.cfg.images and one.cfg.backbone


def test_members_of_a_sweep_share_the_backbone(tmp_path: Path, monkeypatch) -> None:
    n_forward: list[int] = []
    real = streaming.ShardRecorder.read

    def counted(self, batch, layers):
        n_forward.append(len(batch.items))
        return real(self, batch, layers)

    monkeypatch.setattr(streaming.ShardRecorder, "read", counted)
    base = (*STREAM, f"paths.outputs={tmp_path}")
    assert in_process("train", *base, f"hydra.run.dir={tmp_path}/one") is None
    once = sum(n_forward)
    n_forward.clear()
    status = in_process(
        "train",
        "-m",
        *base,
        "model.k=8,4,2",
        "hydra/launcher=shared",
        f"hydra.sweep.dir={tmp_path}/s",
    )
    assert status is None and sum(n_forward) == once
    (first, *_) = sorted((tmp_path / "s").iterdir())
    one, two = (
        SparseAutoencoder.from_pretrained(path / "sae") for path in (first, tmp_path / "one")
    )
    assert torch.equal(one.W_dec, two.W_dec)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.batch_size=100000", ("data.reservoir_tokens=1024", "data.batch_size=100000")),
        ("trainer.devices=2", ("data=streaming", "trainer.devices=2")),
        ("data.dir=/tmp", ("dir",)),
    ],
)
def test_what_a_stream_cannot_do_is_refused(tmp_path: Path, override: str, words) -> None:
    status = in_process("train", *STREAM, override, f"paths.outputs={tmp_path}")
    assert_sentence(status, *words)
