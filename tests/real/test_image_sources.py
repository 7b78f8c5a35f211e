"""Image sources on real photographs."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from datamodules.images import FolderImages, SegmentationImages
from saev.errors import UserError

DATA = Path(os.environ.get("SAEV_REAL_DATA", "../shared/data"))
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not (DATA / "camvid").is_dir(), reason="SAEV_REAL_DATA is absent"),
]
ROOTS = ["caltech26", "imagenet1000", "coco_seg", "camvid"]


@pytest.fixture(scope="module")
def folders() -> FolderImages:
    return FolderImages([str(DATA / root) for root in ROOTS], val_fraction=0.0)


def test_four_roots_of_different_layout(folders):
    count = Counter((item.image_id.partition("/")[0], item.split) for item in folders.items)
    assert count == {
        ("caltech26", "train"): 780,
        ("caltech26", "test"): 390,
        ("imagenet1000", "train"): 1000,
        ("coco_seg", "train"): 77,
        ("coco_seg", "val"): 83,
        ("camvid", "train"): 60,
        ("camvid", "val"): 20,
        ("camvid", "test"): 40,
    }
    assert folders.class_names is not None and len(folders.class_names) == 26
    assert not {"images", "masks"} & set(folders.class_names)
    labelled = {i.image_id.partition("/")[0] for i in folders.items if i.label is not None}
    assert labelled == {"caltech26"}


def test_images_decode_without_a_broken_one(folders):
    for item in folders.items[::25]:
        image = folders.load(item)
        assert image.mode == "RGB" and min(image.size) >= 80


def test_a_limit_over_all_splits(folders):
    roots = [str(DATA / root) for root in ROOTS]
    limited = FolderImages(roots, val_fraction=0.0, n_images=245)
    assert len(limited.items) == 245
    share = len(folders.split("heldout")) / len(folders.items)
    assert len(limited.split("heldout")) == pytest.approx(245 * share, abs=2)


def test_train_folders_as_roots():
    source = FolderImages([str(DATA / root / "train") for root in ("caltech26", "camvid")])
    assert source.name == "caltech26-train+camvid-train"
    assert len(source.items) == 840
    assert 50 < len(source.split("heldout")) < 120


def test_camvid_masks():
    source = SegmentationImages(str(DATA / "camvid"), void_value=11)
    assert source.class_names is not None and len(source.class_names) == 11
    seen = Counter()
    for item in source.split("test"):
        mask = source.mask(item)
        assert mask.shape == source.load(item).size[::-1]
        seen.update(np.unique(mask).tolist())
    assert set(seen) == {*range(11), 255}
    plain = SegmentationImages(str(DATA / "camvid"))
    with pytest.raises(UserError, match=r"holds the value 11 .*void_value=11"):
        for item in plain.items:
            plain.mask(item)


def test_coco_masks():
    source = SegmentationImages(str(DATA / "coco_seg"))
    assert source.class_names is not None and source.class_names[0] == "background"
    assert len(source.class_names) == 81
    for item in source.items[::10]:
        assert source.mask(item).shape == source.load(item).size[::-1]
