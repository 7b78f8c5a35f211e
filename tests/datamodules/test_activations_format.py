"""Tars and manifest: round trips, and everything that can be wrong with the files."""

import io
import json
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.activations.format import FORMAT_VERSION, Manifest, ShardInfo
from datamodules.activations.tar import ShardWriter, iter_samples
from saev.errors import UserError
from tests.fakes.activations import tagged, write_folder

METAS = st.fixed_dictionaries(
    {"image_id": st.text(max_size=20), "label": st.none() | st.integers(0, 99)}
)


def write(folder: Path, samples, name: str = "train-000000.tar") -> ShardInfo:
    with ShardWriter(folder / name, folder / "unfinished") as writer:
        for i, (acts, meta) in enumerate(samples):
            writer.write(f"{i:08d}", acts, meta)
    n_tokens = sum(len(acts) for acts, _ in samples)
    return ShardInfo(name, "train", len(samples), n_tokens, writer.n_bytes, writer.sha256)


@settings(max_examples=30, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 7)), max_size=4),
    dtype=st.sampled_from([np.float16, np.float32]),
    meta=METAS,
    seed=st.integers(0, 99),
)
def test_what_is_written_is_read_and_equal_content_gives_equal_bytes(
    tmp_path_factory, shapes, dtype, meta, seed
):
    folder = tmp_path_factory.mktemp("tar")
    generator = np.random.default_rng(seed)
    samples = [(generator.standard_normal(shape).astype(dtype), meta) for shape in shapes]
    shard = write(folder, samples)
    read = list(iter_samples(folder, shard))
    assert [sample.meta for sample in read] == [meta for _ in samples]
    for sample, (acts, _) in zip(read, samples, strict=True):
        assert sample.acts.dtype == dtype
        np.testing.assert_array_equal(sample.acts, acts)
    again = write(folder, samples, "again.tar")
    assert (again.sha256, again.n_bytes) == (shard.sha256, shard.n_bytes)
    assert shard.n_bytes == (folder / shard.name).stat().st_size
    assert not (folder / "unfinished").exists()


def test_a_tar_opens_with_tarfile_numpy_and_json_alone(tmp_path: Path):
    acts = np.arange(6, dtype=np.float16).reshape(2, 3)
    write(tmp_path, [(acts, {"image_id": "a"})])
    with tarfile.open(tmp_path / "train-000000.tar") as tar:
        assert tar.getnames() == ["00000000.acts.npy", "00000000.json"]
        assert all((m.mtime, m.uid, m.uname) == (0, 0, "") for m in tar.getmembers())
        content = {m.name: tar.extractfile(m).read() for m in tar.getmembers()}
    np.testing.assert_array_equal(np.load(io.BytesIO(content["00000000.acts.npy"])), acts)
    assert json.loads(content["00000000.json"]) == {"image_id": "a"}


@settings(max_examples=40, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_tar_cut_anywhere_is_named(tmp_path_factory, share: float):
    folder = tmp_path_factory.mktemp("cut")
    shard = write(folder, [(np.ones((3, 400), np.float16), {"image_id": str(i)}) for i in range(3)])
    path = folder / shard.name
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
    n_content = last.offset_data + last.size  # beyond it there is only padding
    path.write_bytes(path.read_bytes()[: int(share * n_content)])
    with pytest.raises(UserError, match=rf"{shard.name} is (cut off|damaged).*delete it"):
        list(iter_samples(folder, shard))


def tar_of(path: Path, members: dict[str, bytes]) -> ShardInfo:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return ShardInfo(path.name, "train", 1, 1, path.stat().st_size, "")


@pytest.mark.parametrize(
    "name", ["../00.acts.npy", "/00.acts.npy", "a/../../00.json", "..\\00.json"]
)
def test_a_member_that_points_out_of_the_tar_is_refused(tmp_path: Path, name: str):
    shard = tar_of(tmp_path / "train-000000.tar", {name: b"{}"})
    with pytest.raises(UserError, match=r"train-000000\.tar has a member that points outside"):
        list(iter_samples(tmp_path, shard))


def test_a_pickle_inside_an_array_is_not_opened(tmp_path: Path):
    opened = []

    class Trap:
        def __reduce__(self):
            return (opened.append, (1,))

    buffer = io.BytesIO()
    np.save(buffer, np.array([[Trap()]], dtype=object), allow_pickle=True)
    members = {"00.acts.npy": buffer.getvalue(), "00.json": b"{}"}
    shard = tar_of(tmp_path / "train-000000.tar", members)
    with pytest.raises(UserError, match="damaged"):
        list(iter_samples(tmp_path, shard))
    bare = {"00.acts.npy": pickle.dumps(Trap()), "00.json": b"{}"}
    shard = tar_of(tmp_path / "train-000001.tar", bare)
    with pytest.raises(UserError, match="damaged"):
        list(iter_samples(tmp_path, shard))
    assert not opened


@pytest.mark.parametrize(
    "members", [{"00.json": b"{}"}, {"00.acts.npy": b"no array", "00.json": b"{}"}]
)
def test_a_sample_without_a_readable_array_is_an_error(tmp_path: Path, members):
    shard = tar_of(tmp_path / "train-000000.tar", members)
    with pytest.raises(UserError, match=r"train-000000\.tar is damaged"):
        list(iter_samples(tmp_path, shard))


def test_an_exception_while_writing_leaves_nothing(tmp_path: Path):
    with pytest.raises(KeyError), ShardWriter(tmp_path / "a.tar", tmp_path / "a.tmp") as writer:
        writer.write("0", np.ones((2, 2), np.float16), {})
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_round_trips_and_its_hash_is_that_of_the_file(tmp_path: Path):
    manifest = write_folder(tmp_path, tagged(2, 3, 4), tagged(1, 1, 4))
    assert Manifest.read(tmp_path) == manifest
    assert Manifest.read(tmp_path).sha256 == manifest.sha256
    assert manifest.sha256 != replace(manifest, layer=2).sha256
    assert [shard.name for shard in manifest.of_split("heldout")] == ["heldout-000000.tar"]


def edit(folder: Path, **fields) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_manifest_of_another_version_says_so(tmp_path: Path):
    write_folder(tmp_path, tagged(1, 2, 4))
    edit(tmp_path, format_version=FORMAT_VERSION + 1)
    with pytest.raises(UserError, match=f"has format version {FORMAT_VERSION + 1}"):
        Manifest.read(tmp_path)


def test_a_missing_manifest_says_what_to_do(tmp_path: Path):
    with pytest.raises(UserError, match=r"no manifest\.json in .*run saev\.record"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("text", ["{", "[1]", '{"format_version": 1}', "\xff"])
def test_a_damaged_manifest_is_an_error(tmp_path: Path, text: str):
    (tmp_path / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"manifest\.json"):
        Manifest.read(tmp_path)


def test_a_manifest_cannot_name_files_elsewhere(tmp_path: Path):
    manifest = write_folder(tmp_path, tagged(1, 2, 4))
    moved = replace(manifest.shards[0], name="../train-000000.tar")
    replace(manifest, shards=[moved]).write(tmp_path)
    with pytest.raises(UserError, match="outside its folder"):
        Manifest.read(tmp_path)
