"""Folders of images: ids, splits, classes, layouts, broken files; what all sources share."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from datamodules.images import BrokenImage, FolderImages, ImageDataset
from datamodules.images.from_spec import source_from_spec
from saev.errors import UserError


def put(*paths: Path) -> None:
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4 + number % 3, 4), (number % 256, 0, 0)).save(path)


def ids(source: FolderImages) -> list[str]:
    return [item.image_id for item in source.items]


@pytest.fixture
def split_root(tmp_path) -> Path:
    root = tmp_path / "pets"
    put(
        *[root / "train" / kind / f"{n}.png" for kind in ("dog", "cat") for n in range(4)],
        root / "validation" / "cat" / "deep" / "9.PNG",
        root / "test" / "owl" / "1.webp",
        root / "test" / "2.bmp",
        root / "test" / ".hidden.png",
    )
    return root


def test_ids_splits_and_labels(split_root):
    source = FolderImages([str(split_root)])
    assert source.name == "pets"
    assert source.class_names == ["cat", "dog", "owl"]
    assert ids(source) == sorted(ids(source))
    by_id = {item.image_id: item for item in source.items}
    deep = by_id["pets/validation/cat/deep/9.PNG"]
    assert (deep.split, deep.label, deep.path) == ("val", 0, "validation/cat/deep/9.PNG")
    assert by_id["pets/test/owl/1.webp"].label == 2
    assert by_id["pets/test/2.bmp"].label is None
    assert len(source.split("train")) == 8
    assert [item.split for item in source.split("heldout")] == ["test", "test", "val"]
    assert len(source.items) == 11
    assert source.mask(deep) is None
    with pytest.raises(ValueError, match="which is 'dev'"):
        source.split("dev")


def test_labels_none_and_a_root_as_text(split_root):
    source = FolderImages(str(split_root), labels="none")
    assert source.class_names is None
    assert {item.label for item in source.items} == {None}
    with pytest.raises(ValueError, match="labels is 'files'"):
        FolderImages(str(split_root), labels="files")


def test_several_roots_share_classes_and_keep_own_splits(split_root, tmp_path):
    put(*[tmp_path / "zoo" / "ape" / f"{n}.jpg" for n in range(40)])
    put(*[tmp_path / "flat" / f"{n}.jpg" for n in range(5)])
    roots = [str(split_root), str(tmp_path / "zoo"), str(tmp_path / "flat")]
    source = FolderImages(roots, val_fraction=0.25)
    assert source.class_names == ["ape", "cat", "dog", "owl"]
    assert source.name == "pets+zoo+flat"
    zoo = [item for item in source.items if item.image_id.startswith("zoo/")]
    assert {item.split for item in zoo} == {"train", "val"}
    assert {item.label for item in zoo} == {0}
    assert {item.label for item in source.items if item.image_id.startswith("flat/")} == {None}
    assert ids(FolderImages(roots[::-1], val_fraction=0.25)) == ids(source)
    for item in source.items:
        assert source.load(item).mode == "RGB"


def test_new_images_move_no_other_image(tmp_path):
    put(*[tmp_path / "root" / f"{n}.png" for n in range(60)])
    before = {i.image_id: i.split for i in FolderImages(str(tmp_path / "root")).items}
    put(*[tmp_path / "root" / "more" / f"a{n}.png" for n in range(30)])
    after = {i.image_id: i.split for i in FolderImages(str(tmp_path / "root")).items}
    assert {name: after[name] for name in before} == before
    assert len(after) == 90


def test_segmentation_folders_give_their_images_only(tmp_path):
    whole, halves, inner = tmp_path / "whole", tmp_path / "halves", tmp_path / "inner"
    for base in (whole, halves / "train", halves / "test"):
        put(base / "images" / "a.jpg", base / "masks" / "a.png")
    put(*[inner / kind / s / "b.png" for kind in ("images", "masks") for s in ("train", "val")])
    source = FolderImages([str(whole), str(halves), str(inner)])
    assert source.class_names is None
    assert ids(source) == [
        "halves/test/images/a.jpg",
        "halves/train/images/a.jpg",
        "inner/images/train/b.png",
        "inner/images/val/b.png",
        "whole/images/a.jpg",
    ]
    assert [item.split for item in source.items[:4]] == ["test", "train", "train", "val"]


def test_split_folders_as_roots_take_the_name_above(tmp_path):
    put(*[tmp_path / name / "train" / "images" / "0.png" for name in ("a", "b")])
    source = FolderImages([str(tmp_path / "a" / "train" / "images"), str(tmp_path / "b" / "train")])
    assert ids(source) == ["a/train/images/0.png", "b/train/images/0.png"]
    assert source.load(source.items[0]).size == (4, 4)


def test_links_are_followed_and_loops_end(tmp_path):
    put(tmp_path / "store" / "cat" / "0.png")
    root = tmp_path / "root"
    root.mkdir()
    (root / "tabby").symlink_to(tmp_path / "store" / "cat")
    (root / "one.png").symlink_to(tmp_path / "store" / "cat" / "0.png")
    (root / "up").symlink_to(root)
    (root / "dead.png").symlink_to(tmp_path / "nowhere.png")
    source = FolderImages(str(root))
    assert ids(source) == ["root/dead.png", "root/one.png", "root/tabby/0.png"]
    with pytest.raises(BrokenImage, match=r"dead\.png.*no such file"):
        source.load(source.items[0])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"set images\.roots=\["),
        (["missing"], r"missing does not exist: set images\.roots"),
        (["file.png"], r"file\.png is not a folder"),
        (["empty"], r"empty holds no images"),
        (["ok", "empty"], r"empty holds no images"),
        (["ok", "ok"], "share the name 'ok'"),
        (["ok", "other/ok"], "share the name 'ok'"),
    ],
)
def test_bad_roots_are_refused(tmp_path, names, message):
    (tmp_path / "empty" / "train").mkdir(parents=True)
    put(tmp_path / "ok" / "a.png", tmp_path / "other" / "ok" / "a.png", tmp_path / "file.png")
    with pytest.raises(UserError, match=message):
        FolderImages([str(tmp_path / name) for name in names])


def test_unreadable_folder_is_refused(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    put(tmp_path / "ok" / "a.png")
    monkeypatch.setattr(os, "scandir", refuse)  # a superuser may list every folder
    with pytest.raises(UserError, match=r"ok cannot be listed \(Permission denied\)"):
        FolderImages(str(tmp_path / "ok"))


def test_images_beside_split_folders_are_refused(split_root):
    put(split_root / "bus" / "7.png")
    with pytest.raises(UserError, match=r"divided into test, train, validation .* bus/7\.png"):
        FolderImages(str(split_root))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("n_images", 0),
        ("val_fraction", 1.0),
        ("val_fraction", -0.1),
        ("on_error", "no"),
        ("seed", -1),
    ],
)
def test_bad_arguments_are_named(split_root, option, value):
    with pytest.raises(ValueError, match=f"{option} is {value!r}"):
        FolderImages(str(split_root), **{option: value})


def test_limit_counts_all_splits(split_root):
    for n_images in (2, 3, 5, 11, 50):
        source = FolderImages(str(split_root), n_images=n_images)
        assert len(source.items) == min(n_images, 11)
        assert source.split("train") and source.split("heldout")
        assert source.class_names == ["cat", "dog", "owl"]


def broken_root(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for name in ("a", "b", "c"):
        (root / "x").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / "x" / f"{name}.jpg")
    whole = (root / "x" / "b.jpg").read_bytes()
    (root / "x" / "b.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "x" / "t.jpg").write_text("a text")
    return root


def test_broken_images_are_refused_by_path(tmp_path):
    root = broken_root(tmp_path)
    source = FolderImages(str(root))
    for item in source.items:
        if item.image_id[-5] in "bt":
            with pytest.raises(UserError, match=f"{root}/{item.path}"):
                source.load_or_skip(item)
        else:
            assert source.load_or_skip(item) is not None
    assert source.n_skipped == []


def test_broken_images_are_skipped_counted_and_listed(tmp_path):
    source = FolderImages(str(broken_root(tmp_path)), on_error="skip")
    for _ in range(2):
        good = [item for item in source.items if source.load_or_skip(item) is not None]
    assert [item.image_id for item in good] == ["photos/x/a.jpg", "photos/x/c.jpg"]
    assert [entry["image_id"] for entry in source.n_skipped] == ["photos/x/b.jpg", "photos/x/t.jpg"]
    assert "truncated" in source.n_skipped[0]["reason"]
    json.dumps(source.n_skipped)


def to_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_carries_broken_images_beside_good_ones(tmp_path, num_workers):
    source = FolderImages(str(broken_root(tmp_path)))
    loader = DataLoader(
        ImageDataset(source, source.items, to_tensor),
        batch_size=3,
        num_workers=num_workers,
        collate_fn=ImageDataset.collate,
    )
    first, last = list(loader)
    assert first.images.shape == (2, 3, 32, 32)
    assert first.positions == [0, 2]
    assert first.items == [source.items[0], source.items[2]]
    [(item, error)] = first.broken
    assert item == source.items[1]
    with pytest.raises(BrokenImage, match=r"b\.jpg"):
        source.report_broken(item, error)
    assert last.images.shape[0] == 0 and last.items == [] and len(last.broken) == 1


def test_spec_rebuilds_the_source(split_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = FolderImages("pets", labels="none", n_images=6, val_fraction=0.2, seed=3)
    spec = json.loads(json.dumps(source.spec()))
    monkeypatch.chdir("/")
    again = source_from_spec(spec, "it")
    assert again.items == source.items
    assert again.spec() == source.spec()
    assert again.fingerprint() == source.fingerprint()


def test_fingerprint_follows_content_and_not_place(split_root, tmp_path):
    print_of = lambda **options: FolderImages(str(split_root), **options).fingerprint()  # noqa: E731
    original = print_of()
    json.dumps(original)
    assert print_of(n_images=500, on_error="skip", seed=9, val_fraction=0.5) == original
    assert print_of(labels="none") != original
    assert print_of(n_images=5) != original
    moved = tmp_path / "elsewhere" / "pets"
    moved.parent.mkdir()
    split_root.rename(moved)
    assert FolderImages(str(moved)).fingerprint() == original
    Image.new("RGB", (64, 64), "red").save(moved / "test" / "2.bmp")
    assert FolderImages(str(moved)).fingerprint() != original


def test_what_is_no_file_is_refused_by_name(tmp_path):
    (tmp_path / "set").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "set" / "good.png")
    os.mkfifo(tmp_path / "set" / "pipe.png")
    (tmp_path / "set" / "itself.png").symlink_to("itself.png")
    (tmp_path / "set" / "itself").symlink_to("itself")
    source = FolderImages(str(tmp_path / "set"), on_error="skip")
    found = {item.path: source.load_or_skip(item) for item in source.items}
    assert [path for path, image in found.items() if image is not None] == ["good.png"]
    reasons = {entry["image_id"]: entry["reason"] for entry in source.n_skipped}
    assert reasons["set/pipe.png"] == "it is not a regular file"
    assert set(reasons) == {"set/pipe.png", "set/itself.png"}


def test_folders_without_end_are_refused(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    here = os.open(folder, os.O_RDONLY)
    for _ in range(210):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    with pytest.raises(UserError, match="more than 200 folders deep"):
        FolderImages(str(folder))
