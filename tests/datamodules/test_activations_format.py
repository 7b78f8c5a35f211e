"""Tars and manifest: round trips, and everything that can be wrong with the files."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from datamodules.activations import tar as activation_tars
from datamodules.activations.format import FORMAT_VERSION, Manifest, Rows, ShardInfo
from datamodules.activations.norms import compute_statistics
from datamodules.activations.tar import ShardWriter, _is_finite, iter_samples
from saev.errors import UserError
from tests.fakes.activations import tagged, write_folder
from tests.fakes.hostile import sparse_tar

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
METAS = st.fixed_dictionaries({"image_id": NAMES, "label": st.none() | st.integers(0, 99)})


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


@pytest.mark.parametrize("meta", [{"image_id": "a\0b"}, {"image_id": "a", "label": "cat"}, {}])
def test_what_the_reader_would_refuse_is_not_written(tmp_path: Path, meta):
    with pytest.raises(
        UserError, match=r"cannot hold this image's description: .*(image_id|label)"
    ):
        write(tmp_path, [(np.ones((1, 2), np.float16), meta)])
    assert not list(tmp_path.rglob("*.tar*"))


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


def as_read(folder: Path, shard: ShardInfo) -> list:
    """Samples, and at the end the error if there is one."""
    found: list = []
    try:
        for acts, meta in iter_samples(folder, shard):
            found.append((acts.tolist(), meta))
    except UserError as error:
        found.append(str(error))
    return found


FOREIGN = st.sampled_from(["a", "b" * 90, "c" * 120, "dir/d", "e" * 60 + "/" + "f" * 80, "grün"])


@settings(max_examples=60, deadline=None)
@given(
    keys=st.lists(FOREIGN, min_size=1, max_size=4, unique=True),
    kind=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    with_folder=st.booleans(),
    cut=st.none() | st.floats(0, 1),
    damaged=st.none()
    | st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=9)),
)
def test_tars_of_all_kinds_are_read_as_tarfile_reads_them(
    tmp_path_factory, keys, kind, with_folder, cut, damaged
):
    """Plain headers are parsed here, all others by tarfile, from where they come."""
    assume(kind != tarfile.USTAR_FORMAT or "c" * 120 not in keys)  # which it has no place for
    folder = tmp_path_factory.mktemp("kinds")
    path = folder / "train-000000.tar"
    with tarfile.open(path, "w", format=kind) as tar:
        for place, key in enumerate(keys):
            if with_folder and place == len(keys) // 2:
                info = tarfile.TarInfo("folder")
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            acts = npy(np.full((2, 300), place, np.float16))
            for ending, content in (("acts.npy", acts), ("json", b'{"image_id": "a"}')):
                info = tarfile.TarInfo(f"{key}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    content = bytearray(path.read_bytes())
    shard = ShardInfo(path.name, "train", len(keys), 2 * len(keys), len(content), "")
    if damaged is not None:
        at = int(damaged[0] * len(content))
        content[at : at + len(damaged[1])] = damaged[1]
    path.write_bytes(content if cut is None else content[: int(cut * len(content))])
    fast = as_read(folder, shard)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(activation_tars, "_plain_header", lambda header: None)
        patch.setattr(activation_tars, "_is_header", lambda block: True)
        assert fast == as_read(folder, shard)
    if cut is damaged is None:
        assert len(fast) == len(keys) and not isinstance(fast[-1], str)


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


def npy(acts: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, acts, allow_pickle=True)
    return buffer.getvalue()


def sample_tar(
    path: Path, acts: np.ndarray | bytes, meta: bytes = b'{"image_id": "a"}'
) -> ShardInfo:
    content = acts if isinstance(acts, bytes) else npy(acts)
    return replace(tar_of(path, {"0.acts.npy": content, "0.json": meta}), n_tokens=2)


HALVES = np.ones((2, 3), np.float16)
HEADER = {"int8": np.int8, "int32": np.int32, "bool": np.bool_, "complex64": np.complex64,
          "float64": np.float64, "big endian": ">f2", "text": "<U3"}  # fmt: skip


@pytest.mark.parametrize(
    ("acts", "words"),
    [
        *[
            (np.ones((2, 3)).astype(dtype), "not of float16 or float32")
            for dtype in HEADER.values()
        ],
        (np.ones((2, 1), np.float16), "rows of 1 float16 where the manifest says 3 float16"),
        (np.ones((2, 0), np.float16), "rows of 0 float16"),
        (np.ones((2, 64), np.float16), "rows of 64 float16"),
        (np.ones((2, 3), np.float32), "rows of 3 float32"),
        (np.zeros(2, [("a", "f2"), ("b", "f2")]), "not rows of numbers"),
        (np.asfortranarray(np.ones((2, 3), np.float16)), "not rows of numbers"),
        (np.ones((2, 3, 1), np.float16), "not rows of numbers"),
        (b"\x93NUMPY\x01\x00\x10\x27" + b"(" * 10_000, "npy header"),
    ],
)
def test_samples_are_compared_with_the_manifest(tmp_path: Path, acts, words: str):
    shard = sample_tar(tmp_path / "train-000000.tar", acts)
    with pytest.raises(UserError, match=r"train-000000\.tar is damaged") as found:
        list(iter_samples(tmp_path, shard, Rows(3, "float16")))
    assert words in str(found.value)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_names_shard_and_image(tmp_path: Path, dtype, bad: float):
    acts = np.ones((2, 3), dtype)
    shard = sample_tar(tmp_path / "train-000000.tar", acts)
    assert len(list(iter_samples(tmp_path, shard))) == 1
    acts[1, 2] = bad
    shard = sample_tar(tmp_path / "train-000000.tar", acts)
    with pytest.raises(
        UserError, match=r"train-000000\.tar holds values of the image 'a' that are"
    ):
        list(iter_samples(tmp_path, shard))
    assert len(list(iter_samples(tmp_path, shard, finite=False))) == 1


@given(acts=arrays(np.float16, (3, 2), elements=st.floats(width=16)))
def test_the_bits_say_what_numpy_says(acts: np.ndarray):
    for found in (acts, acts.astype(np.float32)):
        assert _is_finite(found) == np.isfinite(found).all()


@pytest.mark.parametrize(
    "meta",
    [
        b"[]", b"{}", b'{"image_id": 5}', b'{"image_id": "a", "label": "cat"}', b"[" * 100_000,
        b'{"image_id": "a", "label": -3}', b'{"image_id": "a", "tokens": [1]}',
        b'{"image_id": "a", "tokens": {}}', b'{"image_id": "\\ud800"}',
    ],
)  # fmt: skip
def test_a_description_that_does_not_fit_is_an_error(tmp_path: Path, meta: bytes):
    shard = sample_tar(tmp_path / "train-000000.tar", HALVES, meta)
    with pytest.raises(UserError, match=r"train-000000\.tar"):
        list(iter_samples(tmp_path, shard))


def test_a_description_without_end_is_not_read(tmp_path: Path):
    meta = b'{"image_id": "' + b"a" * (1 << 20) + b'"}'
    shard = sample_tar(tmp_path / "train-000000.tar", HALVES, meta)
    with pytest.raises(UserError, match="bytes where 1048576 are the most"):
        list(iter_samples(tmp_path, shard))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_tar_is_not_unpacked(tmp_path: Path, pack):
    shard = sample_tar(tmp_path / "train-000000.tar", HALVES)
    path = tmp_path / shard.name
    path.write_bytes(pack(path.read_bytes()))
    with pytest.raises(UserError, match=r"train-000000\.tar is compressed"):
        list(iter_samples(tmp_path, shard))


@pytest.mark.parametrize("n_bytes", [3 << 30, 1 << 40])
@pytest.mark.parametrize("name", ["0.acts.npy", "0.json"])
def test_a_sparse_member_is_refused_before_it_is_read(tmp_path: Path, n_bytes: int, name: str):
    path = sparse_tar(tmp_path / "train-000000.tar", {name: n_bytes})
    shard = ShardInfo(path.name, "train", 1, 1, 1 << 41, "")
    with pytest.raises(UserError, match=r"train-000000\.tar has a member, .* that is sparse"):
        list(iter_samples(tmp_path, shard))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_a_link_in_a_tar_is_refused(tmp_path: Path, kind: bytes):
    with tarfile.open(tmp_path / "train-000000.tar", "w") as tar:
        info = tarfile.TarInfo("0.acts.npy")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    shard = ShardInfo("train-000000.tar", "train", 1, 1, 10_240, "")
    with pytest.raises(UserError, match="a link or device"):
        list(iter_samples(tmp_path, shard))


def test_an_exception_while_writing_leaves_nothing(tmp_path: Path):
    with pytest.raises(KeyError), ShardWriter(tmp_path / "a.tar", tmp_path / "a.tmp") as writer:
        writer.write("0", np.ones((2, 2), np.float16), {"image_id": "a"})
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


def changed(folder: Path, place: str, value: object) -> None:
    """Sets one value deep in the manifest, "shards.0.name"."""
    path = folder / "manifest.json"
    content = node = json.loads(path.read_text())
    *parents, last = [int(key) if key.isdigit() else key for key in place.split(".")]
    for key in parents:
        node = node[key]
    node[last] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("dtype", "int8", "dtype is 'int8' where one of float16, float32"),
        ("width", "3", "width is '3'"),
        ("width", 0, "width is 0"),
        ("width", 4, "too little room|a mean of 3 numbers"),
        ("layer", 1.5, "layer is 1.5"),
        ("grid", [2], "grid is"),
        ("grid", [2, -2], "grid"),
        ("backbone", None, "backbone is None"),
        ("backbone", {"spec": []}, "backbone.spec is"),
        ("tokens", None, "tokens is None"),
        ("tokens", {}, "tokens.which is missing"),
        ("token_names", "patch", "token_names is 'patch'"),
        ("images", 5, "images is 5"),
        ("class_names", [1], "class_names"),
        ("skipped", [5], "skipped"),
        ("recording", None, "recording is None"),
        ("id", 5, "id is 5"),
        ("surprise", 5, "'surprise' is none of its keys"),
        ("shards", {}, "shards is"),
        ("shards.0", 5, "shards.0. is 5"),
        ("shards.0.name", 5, "name is 5"),
        ("shards.0.name", "..", "outside its folder"),
        ("shards.0.name", "a/b", "outside its folder"),
        ("shards.0.name", "train-000001.tar", "twice"),
        ("shards.0.split", "test", "split is 'test'"),
        ("shards.0.n_tokens", 10**15, "n_tokens is 1000000000000000"),
        ("shards.0.n_tokens", 10**10, "too little room"),
        ("shards.0.n_tokens", -1, "n_tokens is -1"),
        ("shards.0.n_images", True, "n_images is True"),
        ("statistics", {}, "statistics.n_tokens is missing"),
        ("statistics.mean", [0.0], "a mean of 1 numbers for a width of 3"),
        ("statistics.mean", [0.0, float("nan"), 0.0], "statistics.mean.1. is nan"),
        ("statistics.mean", "abc", "statistics.mean is 'abc'"),
        ("statistics.scale", 0, "statistics.scale is 0"),
        ("statistics.scale", float("inf"), "statistics.scale is inf"),
        ("statistics.max_norm", "3", "statistics.max_norm is '3'"),
        ("statistics.max_norm", float("nan"), "statistics.max_norm is nan"),
        ("statistics.median_norm", -1, "statistics.median_norm is -1"),
        ("statistics.n_normal_per_shard", [1], "1 counts of normal tokens for 2"),
        ("statistics.n_normal_per_shard", [12, 11], "n_normal 24 where its shards hold 23"),
        ("statistics.n_normal_per_shard", [13, 11], "more normal tokens than there are"),
        ("statistics.n_tokens", 25, "is not the sum"),
    ],
)
def test_every_field_of_a_manifest_is_checked(tmp_path: Path, place: str, value, words: str):
    write_folder(tmp_path, tagged(2, 3, 4))
    changed(tmp_path, place, value)
    with pytest.raises(UserError, match=words) as found:
        Manifest.read(tmp_path)
    assert "manifest.json" in str(found.value) and "\n" not in str(found.value)


@pytest.mark.parametrize(
    "text", ["[" * 200_000, '{"format_version": ' + "[" * 900 + "]" * 900 + "}"]
)
def test_a_manifest_nested_without_end_is_an_error(tmp_path: Path, text: str):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json"):
        Manifest.read(tmp_path)


def test_a_manifest_larger_than_any_is_not_parsed(tmp_path: Path):
    with (tmp_path / "manifest.json").open("wb") as file:
        file.truncate(1 << 34)
    with pytest.raises(UserError, match="more than 33,554,432 bytes"):
        Manifest.read(tmp_path)


def test_statistics_kept_beside_the_tars_are_checked_too(tmp_path: Path):
    write_folder(tmp_path, tagged(2, 3, 4))
    compute_statistics(tmp_path, 2.5)
    (cache,) = tmp_path.glob("statistics-*.json")
    for key, value, words in (("scale", 0, "scale is 0"), ("mean", [0.0], "a mean of 1 numbers")):
        content = json.loads(cache.read_text())
        cache.write_text(json.dumps(content | {key: value}))
        with pytest.raises(UserError, match=words):
            compute_statistics(tmp_path, 2.5)
        cache.write_text(json.dumps(content))
