"""Recording: the right values, the same bytes however it was interrupted, clear refusals."""

import errno
import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

from datamodules.activations.format import Manifest
from datamodules.activations.tar import iter_samples
from datamodules.activations.verify import verify
from datamodules.images.base import BrokenImage
from saev.errors import UserError
from saev.recording.parts import locked
from saev.recording.request import RecordingRequest
from tests.fakes.activations import digests
from tests.fakes.backbone import WIDTH, TinyBackbone, to_tensor
from tests.fakes.images import TinyImages
from tests.fakes.recording import run


def samples_of(folder: Path, split: str = "train") -> dict:
    shards = Manifest.read(folder).of_split(split)
    return {s.meta["image_id"]: s for shard in shards for s in iter_samples(folder, shard)}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    return run(tmp_path_factory.mktemp("whole"), layers=(0, 2))[0].parent


@pytest.mark.parametrize("tokens", ["patch", "class", "all"])
def test_a_tar_holds_the_residual_stream_at_the_tokens_asked_for(tmp_path: Path, tokens: str):
    backbone, source = TinyBackbone(), TinyImages()
    folder = run(tmp_path, layers=(-1,), tokens=tokens)[2]
    manifest = Manifest.read(folder)
    assert (manifest.layer, manifest.width, manifest.dtype) == (2, WIDTH, "float16")
    assert manifest.tokens["positions"] == backbone.token_indices(tokens).tolist()
    assert manifest.class_names == ["even", "odd"]
    found = samples_of(folder) | samples_of(folder, "heldout")
    assert sorted(found) == [item.image_id for item in source.items]
    for item in source.items:
        image = to_tensor(source.load(item))[None]
        acts = backbone.tap(image, [2])[2][0, backbone.token_indices(tokens)]
        sample = found[item.image_id]
        np.testing.assert_allclose(sample.acts, acts.numpy(), rtol=2e-3, atol=1e-4)
        meta = {"label": item.label, "split": item.split, "path": item.path, "tokens": None}
        assert sample.meta == {"image_id": item.image_id, **meta}


def test_held_out_is_by_image_and_the_order_is_shuffled(undisturbed: Path):
    folder = next(undisturbed.glob("*layer0*"))
    held_out, train = samples_of(folder, "heldout"), samples_of(folder)
    assert {sample.meta["split"] for sample in held_out.values()} == {"val"}
    assert not held_out.keys() & train.keys()
    assert list(train) != sorted(train)
    assert len(train) + len(held_out) == 21


def test_two_layers_in_one_pass_equal_two_passes(undisturbed: Path, tmp_path: Path):
    for layer in (0, 2):
        run(tmp_path, layers=(layer,))
    assert digests(tmp_path) == digests(undisturbed)


def test_a_finished_recording_is_returned_at_once(tmp_path: Path):
    first = run(tmp_path)

    def fail() -> None:
        raise AssertionError("the backbone was run again")

    assert run(tmp_path, TinyBackbone(on_tap=fail)) == first


class StopAt:
    """Raises at the n-th call."""

    def __init__(self, n: int) -> None:
        self.n_left = n

    def __call__(self) -> None:
        self.n_left -= 1
        if self.n_left < 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("n_batches", [0, 1, 2, 5, 8])
def test_interrupted_and_started_again_gives_the_same_bytes(
    undisturbed: Path, tmp_path: Path, n_batches: int
):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, TinyBackbone(on_tap=StopAt(n_batches)), layers=(0, 2))
    assert not list(tmp_path.glob("*/manifest.json"))
    assert len(list(tmp_path.glob("*/*.tar"))) == 2 * (n_batches // 2)  # two batches a shard
    run(tmp_path, layers=(0, 2))
    assert digests(tmp_path) == digests(undisturbed)


@pytest.mark.parametrize(
    "lost", ["train-000001.tar", ".parts/train-000001.tar.json", ".parts/heldout-000000.tar.json"]
)
def test_what_a_kill_between_two_renames_leaves_is_repaired(
    undisturbed: Path, tmp_path: Path, lost: str
):
    folder = run(tmp_path, layers=(0, 2))[0]
    (folder / lost).unlink()
    (folder / "manifest.json").unlink()
    (folder / ".parts/train-000002.tar.tmp").write_bytes(b"half")
    (folder / ".manifest.json.123.tmp").write_bytes(b"half")
    run(tmp_path, layers=(0, 2))
    assert digests(tmp_path) == digests(undisturbed)


def test_a_deleted_shard_is_recorded_again_and_nothing_else(undisturbed: Path, tmp_path: Path):
    folder = run(tmp_path, layers=(0, 2))[2]
    (folder / "train-000001.tar").unlink()
    n_taps = []
    run(tmp_path, TinyBackbone(on_tap=lambda: n_taps.append(1)), layers=(0, 2))
    assert len(n_taps) == 2
    assert digests(tmp_path) == digests(undisturbed)


class FakeRank:
    """One of several ranks that are threads."""

    device = torch.device("cpu")

    def __init__(self, rank: int, barrier: threading.Barrier) -> None:
        self.global_rank, self.world_size = rank, barrier.parties
        self.barrier = lambda: barrier.wait(timeout=60) and None


@pytest.mark.parametrize("n_ranks", [2, 5])
def test_ranks_share_the_work_and_leave_what_one_would(
    undisturbed: Path, tmp_path: Path, n_ranks: int
):
    barrier = threading.Barrier(n_ranks)
    taps: list[int] = []

    def work(rank: int) -> None:
        backbone = TinyBackbone(on_tap=lambda: taps.append(rank))
        run(tmp_path, backbone, layers=(0, 2), fabric=FakeRank(rank, barrier))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(n_ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert digests(tmp_path) == digests(undisturbed)
    # 4 training shards and a held-out one, of two batches except the last: nobody did it all
    assert len(taps) == 9
    assert set(taps) == set(range(n_ranks))


def test_a_broken_image_stops_the_recording_by_default(tmp_path: Path):
    with pytest.raises(BrokenImage, match="tiny/010"):
        run(tmp_path, source=TinyImages(broken=[10]))


def test_broken_images_can_be_skipped_and_move_nothing_else(tmp_path: Path):
    whole = run(tmp_path / "whole")[1]
    source = TinyImages(broken=[2, 10, 11], on_error="skip")
    folder = run(tmp_path / "skipped", source=source)[1]
    manifest = Manifest.read(folder)
    assert [entry["image_id"] for entry in manifest.skipped] == ["tiny/002", "tiny/010", "tiny/011"]
    assert all("cut short" in entry["reason"] for entry in manifest.skipped)
    assert sum(shard.n_images for shard in manifest.shards) == 18
    before = {shard.name: shard for shard in Manifest.read(whole).shards}
    for shard in manifest.shards:
        assert (shard == before[shard.name]) == (shard.n_images == before[shard.name].n_images)
    assert sorted(samples_of(folder)) == sorted(samples_of(whole).keys() - source.broken)


def test_only_broken_images_are_an_error(tmp_path: Path):
    with pytest.raises(UserError, match="no usable training image"):
        run(tmp_path, source=TinyImages(broken=range(21), on_error="skip"))


def test_sub_sampling_is_by_image_and_does_not_depend_on_batches(tmp_path: Path):
    folders = [
        run(tmp_path / str(size), tokens="all", n_per_image=2, batch_size=size)[1]
        for size in (2, 5)
    ]
    assert digests(folders[0]) == digests(folders[1])
    whole = samples_of(run(tmp_path, tokens="all")[1])
    choices = set()
    for image_id, sample in samples_of(folders[0]).items():
        tokens = sample.meta["tokens"]
        assert len(set(tokens)) == 2
        assert tokens == sorted(tokens)
        np.testing.assert_array_equal(sample.acts, whole[image_id].acts[tokens])
        choices.add(tuple(tokens))
    assert len(choices) > 3
    manifest = Manifest.read(folders[0])
    assert sum(shard.n_tokens for shard in manifest.shards) == 2 * 21


def test_positions_of_sampled_patches_are_on_the_token_axis(tmp_path: Path):
    folder = run(tmp_path, n_per_image=4, tokens="all")[1]
    everything = samples_of(run(tmp_path, tokens="all")[1])
    for image_id, sample in samples_of(run(tmp_path, n_per_image=2)[1]).items():
        assert 0 not in sample.meta["tokens"]  # the class token
        np.testing.assert_array_equal(sample.acts, everything[image_id].acts[sample.meta["tokens"]])
    assert Manifest.read(folder).tokens["n_per_image"] == 4


class Scaled(TinyBackbone):
    """Gives one image, told by its pixels, values of another size."""

    def __init__(self, image_id: str, factor: float) -> None:
        super().__init__()
        source = TinyImages()
        item = next(item for item in source.items if item.image_id == image_id)
        self.marked, self.factor = to_tensor(source.load(item)), factor

    def tap(self, images, layers=None):
        acts = super().tap(images, layers)
        marked = [bool((image == self.marked).all()) for image in images]
        for values in acts.values():
            values[marked] *= self.factor
        return acts


def test_values_too_large_for_the_dtype_are_refused_and_the_remedy_works(tmp_path: Path):
    backbone = Scaled("tiny/013", 1e6)
    with pytest.raises(UserError, match=r"tiny/013 reaches \d+ after layer 1.*float16.*float32"):
        run(tmp_path, backbone)
    assert not list(tmp_path.glob("*/manifest.json"))
    folder = run(tmp_path, backbone, dtype="float32")[1]
    assert samples_of(folder)["tiny/013"].acts.max() > 65504
    assert samples_of(folder)["tiny/013"].acts.dtype == np.float32


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, value: float):
    with pytest.raises(UserError, match=r"tiny/013 .*not finite after layer 1.*no dtype holds"):
        run(tmp_path, Scaled("tiny/013", value), dtype="float32")
    assert not list(tmp_path.glob("*/.parts/*.tmp"))


class SmallDisk(io.FileIO):
    n_free = 0

    def write(self, data) -> int:
        if len(data) > SmallDisk.n_free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        SmallDisk.n_free -= len(data)
        return super().write(data)


def test_a_full_disk_damages_nothing_and_recording_goes_on_later(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real_open = Path.open

    def small_open(self, mode="r", buffering=-1, **kw):
        if self.name.endswith(".tar.tmp"):
            return SmallDisk(self, "wb")
        return real_open(self, mode, buffering, **kw)

    sizes = [path.stat().st_size for path in undisturbed.glob("*/train-00000[012].tar")]
    SmallDisk.n_free = sum(sizes) - 1
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", small_open)
        with pytest.raises(UserError, match=r"disk is full: .*train-000002\.tar .*run the same"):
            run(tmp_path, layers=(0, 2))
    assert not list(tmp_path.glob("*/.parts/*.tmp"))
    whole = digests(undisturbed)
    left = {name: digest for name, digest in digests(tmp_path).items() if name.endswith(".tar")}
    assert len(left) >= 4
    assert all(whole[name] == digest for name, digest in left.items())
    run(tmp_path, layers=(0, 2))
    assert digests(tmp_path) == whole


def test_statistics_are_those_of_the_normal_training_tokens(tmp_path: Path):
    backbone = Scaled("tiny/013", 100.0)
    folder = run(tmp_path, backbone, dtype="float32")[1]
    found = Manifest.read(folder).statistics
    acts = np.concatenate([s.acts for s in samples_of(folder).values()]).astype(np.float64)
    norms = np.linalg.norm(acts, axis=1)
    assert found.median_norm == pytest.approx(np.sort(norms)[(len(norms) - 1) // 2], rel=1.3e-3)
    assert found.max_norm == 3 * found.median_norm
    normal = acts[norms <= found.max_norm]
    assert (found.n_tokens, found.n_normal) == (68, len(normal))
    assert 0 < found.n_normal < found.n_tokens
    assert sum(found.n_normal_per_shard) == found.n_normal
    np.testing.assert_allclose(found.mean, normal.mean(0), rtol=1e-6)
    scaled = found.scale * (normal - found.mean)
    assert np.square(scaled).sum(1).mean() == pytest.approx(WIDTH, rel=1e-5)
    without = Manifest.read(run(tmp_path / "all", backbone, dtype="float32", max_norm=None)[1])
    assert without.statistics.max_norm is None
    assert without.statistics.n_normal == 68


def test_the_id_names_what_determines_the_content_and_nothing_else():
    def request(backbone=None, source=None, layers=(1,), **kw) -> str:
        backbone, source = backbone or TinyBackbone(), source or TinyImages()
        return RecordingRequest.of(backbone, source, layers, **kw).id(1)

    name = request()
    assert name.startswith("tiny-vit-4-layer1-patch-")
    elsewhere = TinyBackbone()
    elsewhere.weights = {**elsewhere.weights, "kind": "file", "source": "/elsewhere"}
    elsewhere.spec = {**elsewhere.spec, "weights": "/elsewhere", "layer": 2}
    assert {request(elsewhere), request(layers=(0, 1)), request(layers=(-2,))} == {name}
    others = [
        request(TinyBackbone(sha256="cd" * 32)),
        request(source=TinyImages(n=20)),
        request(tokens="all"),
        request(n_per_image=2),
        request(dtype="float32"),
        request(images_per_shard=7),
        request(seed=1),
    ]
    assert len({name, *others}) == 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"n_per_image": 0}, "n_per_image=0"),
        ({"images_per_shard": 0}, "images_per_shard=0"),
        ({"n_per_image": 5}, "more than the 4 patch tokens"),
        ({"tokens": "pixels"}, "pixels"),
        ({"layers": ()}, "at least one"),
        ({"layers": (3,)}, "out of range"),
        ({"max_norm": 0.0}, "max_norm=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"precision": "16"}, "precision='16'"),
    ],
)
def test_settings_out_of_range_say_what_is_allowed(tmp_path: Path, settings, message: str):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, **settings)
    assert not list(tmp_path.iterdir())


def test_another_precision_than_the_recorded_one_is_refused(tmp_path: Path):
    first = run(tmp_path, precision="bf16")
    assert Manifest.read(first[1]).recording["precision"] == "bf16"
    assert run(tmp_path) == first  # auto takes what is there
    with pytest.raises(UserError, match="recorded with precision=bf16"):
        run(tmp_path, precision="32")


def test_two_processes_that_want_the_same_wait_for_each_other(tmp_path: Path, capsys):
    (tmp_path / ".parts").mkdir()
    held = threading.Event()

    def hold() -> None:
        with FileLock(tmp_path / ".parts" / "lock"):
            held.set()
            time.sleep(0.3)

    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    start = time.monotonic()
    with locked([tmp_path]):
        assert time.monotonic() - start > 0.2
    other.join()
    assert "waiting for the process that records" in capsys.readouterr().err


KILLED = """
import sys, time
from tests.fakes.backbone import TinyBackbone
from tests.fakes.recording import run
from pathlib import Path
run(Path(sys.argv[1]), TinyBackbone(on_tap=lambda: time.sleep(0.05)), layers=(0, 2))
"""


@pytest.mark.slow
def test_killed_five_times_gives_the_same_bytes(undisturbed: Path, tmp_path: Path):
    for n_shards in (0, 1, 2, 3, 4):
        with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)]) as process:
            deadline = time.monotonic() + 120
            while len(list(tmp_path.glob("*layer2*/*.tar"))) < n_shards:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.005)
            time.sleep(0.01 * n_shards)
            process.send_signal(signal.SIGKILL)
    for folder in tmp_path.iterdir():
        for part in (folder / ".parts").glob("*.tar.json"):
            assert (folder / part.stem).is_file()
    folders = run(tmp_path, layers=(0, 2))
    assert digests(tmp_path) == digests(undisturbed)
    assert not verify(folders[0], progress=False)
