"""Segmentation folders: masks, class names, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.images import SegmentationImages
from datamodules.images.from_spec import source_from_spec
from saev.errors import UserError

NAMES = ["road", "sky", "tree"]


def put(folder: Path, stem: str, values: list[list[int]]) -> None:
    mask = np.asarray(values, np.uint8)
    for name in ("images", "masks"):
        (folder / name / stem).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", mask.shape[::-1], "red").save(folder / "images" / f"{stem}.jpg")
    Image.fromarray(mask).save(folder / "masks" / f"{stem}.png")


@pytest.fixture
def streets(tmp_path) -> Path:
    root = tmp_path / "streets"
    put(root / "train", "a", [[0, 1, 2], [3, 255, 0]])
    put(root / "val", "town/b", [[1, 1, 1]])
    (root / "classes.json").write_text(json.dumps(NAMES))
    return root


def test_masks_classes_and_splits(streets):
    source = SegmentationImages(str(streets), void_value=3)
    assert source.class_names == NAMES
    assert [(item.image_id, item.split, item.label) for item in source.items] == [
        ("streets/train/images/a.jpg", "train", None),
        ("streets/val/images/town/b.jpg", "val", None),
    ]
    mask = source.mask(source.items[0])
    assert mask.dtype == np.uint8
    assert mask.tolist() == [[0, 1, 2], [255, 255, 0]]
    assert source.mask(source.items[1]).tolist() == [[1, 1, 1]]
    assert source.load(source.items[1]).size == (3, 1)


def test_roots_without_splits_and_meta_json(tmp_path):
    for name in ("one", "two"):
        for number in range(20):
            put(tmp_path / name, f"{number}", [[0]])
        (tmp_path / name / "meta.json").write_text(json.dumps({"classes": NAMES, "source": "x"}))
    source = SegmentationImages([str(tmp_path / "one"), str(tmp_path / "two")], val_fraction=0.3)
    assert len(source.items) == 40
    assert 0 < len(source.split("heldout")) < 20
    (tmp_path / "two" / "meta.json").write_text(json.dumps({"classes": NAMES[::-1]}))
    with pytest.raises(UserError, match="different classes"):
        SegmentationImages([str(tmp_path / "one"), str(tmp_path / "two")])


def test_spec_and_fingerprint(streets):
    source = SegmentationImages(str(streets), void_value=3, n_images=2)
    again = source_from_spec(json.loads(json.dumps(source.spec())), "it")
    assert again.items == source.items
    assert again.fingerprint() == source.fingerprint()
    assert SegmentationImages(str(streets)).fingerprint() != source.fingerprint()


def test_a_value_that_is_no_class_is_refused_by_file(streets):
    source = SegmentationImages(str(streets))
    with pytest.raises(UserError, match=r"train/masks/a\.png holds the value 3 .*void_value=3"):
        source.mask(source.items[0])
    with pytest.raises(ValueError, match="void_value is 256"):
        SegmentationImages(str(streets), void_value=256)


def test_missing_mask_and_size_mismatch(streets):
    mask = streets / "train" / "masks" / "a.png"
    Image.new("L", (2, 3)).save(mask)
    source = SegmentationImages(str(streets))
    with pytest.raises(UserError, match="2 × 3 and its image 3 × 2"):
        source.mask(source.items[0])
    mask.unlink()
    with pytest.raises(UserError, match=r"a\.jpg has no mask .*masks/a\.png"):
        SegmentationImages(str(streets))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"has no classes\.json"),
        ("[not json", "is not JSON"),
        ("{}", "names no classes"),
        ("[]", "names no classes"),
        ("[1, 2]", "names no classes"),
        ('["road", "sky", "road"]', "names 'road' twice"),
    ],
)
def test_bad_class_names(streets, content, message):
    (streets / "classes.json").unlink()
    if content is not None:
        (streets / "classes.json").write_text(content)
    with pytest.raises(UserError, match=message):
        SegmentationImages(str(streets))


def test_other_layouts_are_refused(tmp_path):
    root = tmp_path / "photos"
    (root / "cat").mkdir(parents=True)
    Image.new("RGB", (2, 2)).save(root / "cat" / "a.jpg")
    (root / "classes.json").write_text(json.dumps(NAMES))
    with pytest.raises(UserError, match="use images=folder"):
        SegmentationImages(str(root))
    for name in ("images", "masks"):
        (tmp_path / "void" / name).mkdir(parents=True)
    (tmp_path / "void" / "classes.json").write_text(json.dumps(NAMES))
    with pytest.raises(UserError, match="holds no images"):
        SegmentationImages(str(tmp_path / "void"))
