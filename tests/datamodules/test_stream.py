"""The training stream: conservation, order, resume, mixing; and the held-out tokens."""

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.activations import stream as stream_module
from datamodules.activations.heldout import HeldoutTokens
from datamodules.activations.loader import BatchLoader, BatchMemory
from datamodules.activations.norms import measure, token_norms
from datamodules.activations.reservoir import Reservoir
from datamodules.activations.stream import TokenStream
from datamodules.activations.tar import ShardWriter
from saev.errors import UserError
from tests.fakes.activations import tagged, tags, write_folder


def stream_of(folder: Path, manifest, **kw) -> TokenStream:
    given = {"batch_size": 8, "reservoir_tokens": 24, "seed": 0, "drop_last": False, **kw}
    return TokenStream(folder, manifest, manifest.statistics, **given)


def drawn(reservoir: Reservoir, n: int, generator) -> tuple[torch.Tensor, int]:
    acts = torch.empty(n, 3, dtype=torch.float16)
    return acts, reservoir.read(reservoir.choose(n, generator), acts)


def of_workers(make, n_workers: int, monkeypatch: pytest.MonkeyPatch):
    """The batches of ``n_workers`` workers in turn, without the processes."""
    iterators = []
    for worker in range(n_workers):
        iterator = iter(make())
        info = SimpleNamespace(id=worker, num_workers=n_workers)
        with monkeypatch.context() as patch:
            patch.setattr(stream_module, "get_worker_info", lambda info=info: info)
            iterators.append(itertools.chain([next(iterator)], iterator))
    return itertools.chain.from_iterable(zip(*iterators, strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("tars")


@pytest.fixture(scope="module")
def manifest(folder: Path):
    """7 shards of 3 images of 5 tokens: 105 tokens; 46 held out."""
    held_out = [images[:n] for images, n in zip(tagged(3, 4, 4), (4, 1, 4), strict=True)]
    held_out[1].append(np.full((10, 3), 7, np.float16))
    return write_folder(folder, tagged(7, 3, 5), held_out)


@settings(max_examples=60, deadline=None)
@given(
    n_slots=st.integers(1, 40),
    moves=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10)), max_size=30),
    seed=st.integers(0, 9),
)
def test_a_reservoir_gives_back_each_token_once_and_none_else(n_slots, moves, seed):
    reservoir = Reservoir(n_slots, 3, "float16")
    generator = np.random.default_rng(seed)
    put, taken = [], []
    for image, (n_in, n_out) in enumerate(moves):
        numbers = np.arange(len(put), len(put) + n_in)
        acts = np.stack([numbers // 1000, numbers % 1000, np.full(n_in, image)], 1)
        n_added = reservoir.add(acts.astype(np.float16), image)
        assert n_added == min(n_in, n_slots - (len(put) - len(taken)))
        put += numbers[:n_added].tolist()
        n_out = min(n_out, reservoir.n_held)
        acts_out, n_images = drawn(reservoir, n_out, generator)
        taken += tags(acts_out)
        assert n_images == len(acts_out[:, 2].unique())
        assert reservoir.n_held == len(put) - len(taken) == n_slots - reservoir.n_free
    rest = drawn(reservoir, reservoir.n_held, generator)[0]
    assert sorted(taken + tags(rest)) == sorted(put)


def test_a_reservoir_draws_every_held_token_equally_often():
    generator = np.random.default_rng(0)
    counts = Counter()
    for _ in range(3000):
        reservoir = Reservoir(10, 3, "float16")
        for first in (0, 5):
            reservoir.add(np.stack([np.zeros(5), np.arange(first, first + 5), np.ones(5)], 1), 0)
        reservoir.choose(4, generator)
        counts.update(tags(drawn(reservoir, 3, generator)[0]))
    # 3 of 10 each time; 900 ± 25 (one standard deviation)
    assert min(counts.values()) > 780
    assert max(counts.values()) < 1020
    assert len(counts) == 10


@settings(max_examples=40, deadline=None)
@given(
    batch_size=st.integers(1, 40),
    extra=st.integers(0, 100),
    n_workers=st.integers(1, 3),
    world_size=st.integers(1, 2),
    epoch=st.integers(0, 3),
    drop_last=st.booleans(),
)
def test_every_token_once_per_epoch_whoever_reads_it(
    folder, manifest, batch_size, extra, n_workers, world_size, epoch, drop_last
):
    seen, n_streams = [], n_workers * world_size
    for rank, worker in itertools.product(range(world_size), range(n_workers)):
        stream = stream_of(
            folder,
            manifest,
            batch_size=batch_size,
            reservoir_tokens=batch_size + extra,
            rank=rank,
            world_size=world_size,
            drop_last=drop_last,
        )
        shards = stream._shards_of(epoch, worker, n_workers)
        assert len(shards) in (7 // n_streams, 7 // n_streams + 1)
        # one stream's epoch alone: the batches of that epoch by their known number
        n_batches = stream._n_batches(shards)
        reservoir = Reservoir(batch_size + extra, 3, "float16")
        sizes = list(_sizes(stream, reservoir, shards, seen))
        assert len(sizes) == n_batches
        assert set(sizes[:-1]) <= {batch_size}
    assert len(seen) == len(set(seen))
    n_dropped = 105 - len(seen)
    assert 0 <= n_dropped <= (n_streams * (batch_size - 1) if drop_last else 0)


def _sizes(stream, reservoir, shards, seen):
    generator = np.random.default_rng(0)
    for n_tokens in stream._fill(reservoir, [stream.shards[i] for i in shards]):
        seen += tags(drawn(reservoir, n_tokens, generator)[0])
        yield n_tokens


def test_epochs_differ_and_everything_repeats_with_the_seed(folder, manifest):
    def epochs(**kw) -> list[list[int]]:
        batches = itertools.islice(stream_of(folder, manifest, **kw), 3 * 14)
        seen = [tag for batch in batches for tag in tags(batch.acts)]
        return [seen[i * 105 : (i + 1) * 105] for i in range(3)]

    first = epochs()
    assert [sorted(epoch) for epoch in first] == [list(range(105))] * 3
    assert len({tuple(epoch) for epoch in first}) == 3
    assert epochs() == first
    assert epochs(seed=1) != first


def test_tokens_of_many_images_are_mixed(folder, manifest):
    batches = list(itertools.islice(stream_of(folder, manifest, reservoir_tokens=60), 13))
    for batch in batches:
        assert batch.n_images == len({tag // 5 for tag in tags(batch.acts)})
    assert np.mean([batch.n_images for batch in batches]) > 5  # in order it would be 2 or 3


@pytest.mark.parametrize("n_workers", [1, 2, 3])
@pytest.mark.parametrize("drop_last", [False, True])
def test_a_stream_resumed_anywhere_goes_on_as_if_it_had_not_stopped(
    folder, manifest, monkeypatch, n_workers: int, drop_last: bool
):
    def batches(start: int, n: int) -> list[list[int]]:
        def make() -> TokenStream:
            return stream_of(folder, manifest, start_batch=start, drop_last=drop_last)

        stream = of_workers(make, n_workers, monkeypatch)
        return [tags(batch.acts) for batch in itertools.islice(stream, n)]

    whole = batches(0, 60)
    for start in (1, 2, 5, 13, 14, 15, 31, 47):
        assert batches(start, 60 - start) == whole[start:]


def test_finished_epochs_are_skipped_without_reading_them(folder, manifest, monkeypatch):
    opened = []
    real = stream_module.iter_samples
    monkeypatch.setattr(
        stream_module, "iter_samples", lambda *given, **how: opened.append(1) or real(*given, **how)
    )
    next(iter(stream_of(folder, manifest, start_batch=14 * 1000)))
    assert len(opened) <= 7


def test_outliers_are_left_out_and_the_rest_comes_once(tmp_path: Path):
    generator = np.random.default_rng(0)
    images = [[generator.standard_normal((6, 4)).astype(np.float32) for _ in "ab"] for _ in "abc"]
    for shard in images:
        shard[1][2] *= 100
    manifest = write_folder(tmp_path, images, max_norm=4.0)
    assert manifest.statistics.n_normal == 33
    batches = itertools.islice(stream_of(tmp_path, manifest, batch_size=11), 3)
    acts = torch.cat([batch.acts for batch in batches])
    assert acts.norm(dim=1).max() <= manifest.statistics.max_norm
    assert len(acts.unique(dim=0)) == 33


@pytest.mark.parametrize("n_workers", [0, 2])
def test_the_loader_gives_the_streams_batches_in_float32(
    folder, manifest, monkeypatch, n_workers: int
):
    def make() -> TokenStream:
        return stream_of(folder, manifest)

    loader = iter(BatchLoader(make(), n_workers, pin_memory=False))
    # more than the slots hold, kept while others arrive: none may be overwritten
    kept = list(itertools.islice(loader, 40))
    direct = of_workers(make, max(1, n_workers), monkeypatch)
    for batch, expected in zip(kept, itertools.islice(direct, 40), strict=True):
        assert batch.acts.dtype == torch.float32
        assert tags(batch.acts) == tags(expected.acts)
        assert batch.n_images == expected.n_images


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"reservoir_tokens": 7}, "reservoir_tokens=7"),
        ({"world_size": 8}, "7 training shards for 8 ranks"),
        ({"batch_size": 106, "reservoir_tokens": 200, "drop_last": True}, "fewer than one batch"),
    ],
)
def test_sizes_that_cannot_work_are_refused(folder, manifest, settings, message: str):
    with pytest.raises(ValueError, match=message):
        stream_of(folder, manifest, **settings)


def test_a_worker_that_never_fills_a_batch_says_so_instead_of_hanging(
    folder, manifest, monkeypatch
):
    def make() -> TokenStream:
        return stream_of(folder, manifest, batch_size=40, reservoir_tokens=40, drop_last=True)

    assert make().max_workers == 2
    with pytest.raises(UserError, match="smaller than one batch"):
        next(iter(of_workers(make, 7, monkeypatch)))


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [1, 2, 8, 23, 46, 100])
def test_held_out_tokens_come_once_in_order_in_equally_many_batches(
    folder, manifest, world_size: int, batch_size: int
):
    if batch_size < min(world_size, 2):
        with pytest.raises(ValueError, match="at least 2 tokens on several ranks"):
            HeldoutTokens(folder, manifest, batch_size=batch_size, world_size=world_size)
        return
    parts = [
        HeldoutTokens(folder, manifest, batch_size=batch_size, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    batches = [list(part) for part in parts]
    assert len({len(part) for part in batches}) == 1
    assert [len(part) for part in batches] == [len(part.sizes) for part in parts]
    sizes = [len(batch.acts) for part in batches for batch in part]
    assert max(sizes) <= batch_size
    assert min(sizes) > 0
    everything = torch.cat([batch.acts for part in batches for batch in part])
    expected = [*range(16), *range(16, 20), *[7007] * 10, *range(32, 48)]
    assert tags(everything) == expected
    if world_size == 1:
        assert set(sizes[:-1]) <= {batch_size}


def test_no_held_out_tokens_is_an_error(folder, manifest):
    without = replace(manifest, shards=manifest.of_split("train"))
    with pytest.raises(UserError, match="no held-out tokens"):
        HeldoutTokens(folder, without, batch_size=4)
    with pytest.raises(ValueError, match="val_batch_size=0"):
        HeldoutTokens(folder, manifest, batch_size=0)


@pytest.mark.parametrize("limit", [None, 4.0])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_token_that_is_not_finite_is_not_passed_over(tmp_path: Path, limit, bad: float):
    """Though its norm is not at most the limit."""
    generator = np.random.default_rng(0)
    images = [generator.standard_normal((6, 4)).astype(np.float32) for _ in "abcd"]
    manifest = write_folder(tmp_path, [images], max_norm=limit)
    images[2][1, 3] = bad
    with ShardWriter(tmp_path / "train-000000.tar", tmp_path / "unfinished") as writer:
        for number, acts in enumerate(images):
            writer.write(f"{number}", acts, {"image_id": f"picture {number}"})
    with pytest.raises(UserError, match=r"train-000000.tar holds values of the image 'picture 2'"):
        list(itertools.islice(stream_of(tmp_path, manifest, reservoir_tokens=48), 9))
    with pytest.raises(UserError, match=r"train-000000.tar holds values of the image 'picture 2'"):
        measure(tmp_path, manifest.shards, 2.0, limit)


def test_memory_of_a_batch_is_used_again_once_nobody_holds_it():
    memory = BatchMemory()
    first = memory.lend(4, 3)
    place, view = first.data_ptr(), first[1:]
    del first
    others = [memory.lend(4, 3) for _ in range(3)]
    assert place not in {one.data_ptr() for one in others}  # still held
    del view
    assert memory.lend(4, 3).data_ptr() == place
    assert memory.lend(5, 3).shape == (5, 3)
    many = [memory.lend(2, 3) for _ in range(9)]
    del many
    assert len(memory._free) == 4


@pytest.mark.parametrize("n_workers", [0, 2])
def test_batches_that_are_kept_stay_what_they_were(folder, manifest, n_workers: int):
    """Memory and slots are used again: whoever keeps a batch, as resampling does, must not see that."""
    loader = BatchLoader(stream_of(folder, manifest), n_workers, pin_memory=False)
    kept, copies = [], []
    for batch in itertools.islice(loader, 30):
        kept.append(batch.acts)
        copies.append(batch.acts.clone())
    assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))
    assert len({tag for acts in kept for tag in tags(acts)}) == 105


def test_norms_are_taken_once_a_file_and_again_when_it_changes(tmp_path, monkeypatch):
    manifest = write_folder(tmp_path, tagged(2, 3, 5), tagged(1, 1, 1))
    limited = replace(manifest.statistics, max_norm=1e4)
    stream = TokenStream(
        tmp_path, manifest, limited, batch_size=5, reservoir_tokens=5, seed=0, drop_last=False
    )
    asked = []
    monkeypatch.setattr(
        stream_module, "token_norms", lambda acts: asked.append(1) or token_norms(acts)
    )
    epochs = [list(stream._normal_tokens(manifest.of_split("train")[0])) for _ in range(2)]
    assert len(asked) == 3
    assert all(np.array_equal(a, b) for a, b in zip(*epochs, strict=True))
    shard = manifest.of_split("train")[0]
    with ShardWriter(tmp_path / shard.name, tmp_path / "t.tmp") as writer:
        for image in range(3):
            acts = np.full((5, 3), 1.0 if image else 3e4, np.float16)
            meta = {"image_id": str(image), "label": None, "split": "train", "path": None,
                    "tokens": None}  # fmt: skip
            writer.write(f"{image:08d}", acts, meta)
    after = list(stream._normal_tokens(shard))
    assert len(asked) == 6
    assert [len(acts) for acts in after] == [0, 5, 5]
