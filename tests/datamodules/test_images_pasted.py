"""Pasted textures and objects: where they are, how often, and that masks say so."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.images import ImageSource
from datamodules.images.from_spec import source_from_spec
from datamodules.images.masked import MaskedImages
from datamodules.images.pasted import KINDS, RADII, PastedImages

SIDE = 32


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pasted") / "photos"
    root.mkdir()
    for number in range(40):
        Image.new("RGB", (45, 35), (number, 128, 128)).save(root / f"{number:02d}.png")
    return root


def test_each_kind_is_in_half_of_the_images_whatever_else_is_there(photos: Path) -> None:
    source = PastedImages(str(photos), SIDE, val_fraction=0.2)
    assert source.class_names == ["background", *KINDS]
    there = np.array(
        [[(source.mask(item) == 1 + k).any() for k in range(len(KINDS))] for item in source.items]
    )
    # some are pasted beyond the border or covered
    assert (np.abs(there.mean(0) - 0.45) < 0.2).all()
    phi = np.corrcoef(there.T) - np.eye(len(KINDS))
    assert np.abs(phi).max() < 0.45  # three standard errors of 40 images
    area = [float((source.mask(item) > 0).mean()) for item in source.items]
    assert 0 < np.mean(area) < len(KINDS) * np.pi * RADII[1] ** 2


def test_pixels_change_where_the_mask_says_and_nowhere_else(photos: Path) -> None:
    source = PastedImages(str(photos), SIDE)
    plain = PastedImages(str(photos), SIDE, kinds=())
    for item in source.items[:12]:
        pasted, before = np.array(source.load(item)), np.array(plain.load(item))
        mask = source.mask(item)
        assert pasted.shape == (SIDE, SIDE, 3) and mask.shape == (SIDE, SIDE)
        changed = (pasted != before).any(-1)
        assert np.array_equal(changed, mask > 0)
        assert not plain.mask(item).any()
    stars = np.concatenate(
        [np.array(source.load(i))[source.mask(i) == 5] for i in source.items[:12]]
    )
    assert (stars == KINDS["orange star"].light).all() and len(stars)


def test_a_spec_rebuilds_it_and_another_seed_is_another_source(photos: Path) -> None:
    source = PastedImages(str(photos), SIDE, kinds=("red stripes", "pink heart"), share=0.3)
    again = source_from_spec(source.spec(), "the test")
    item = source.items[3]
    assert np.array_equal(np.array(source.load(item)), np.array(again.load(item)))
    assert again.fingerprint() == source.fingerprint()
    other = PastedImages(str(photos), SIDE, kinds=("red stripes", "pink heart"), share=0.3, seed=1)
    assert other.fingerprint() != source.fingerprint()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"kinds": ["plaid"]}, "plaid"), ({"size": 8}, "16"), ({"share": 1.5}, "share=1.5")],
)
def test_what_cannot_be_pasted_is_refused(photos: Path, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PastedImages(str(photos), **arguments)


def test_masks_in_memory_go_with_the_images_of_another_source(photos: Path) -> None:
    source: ImageSource = PastedImages(str(photos), SIDE, kinds=(), val_fraction=0.3)
    masks = {
        item.image_id: np.full((SIDE, SIDE), k % 2, np.uint8)
        for k, item in enumerate(source.items[:9])
    }
    masked = MaskedImages(source, masks, ["a", "b"])
    assert [item.image_id for item in masked.items] == [i.image_id for i in source.items[:9]]
    assert {i.image_id: i.split for i in masked.items}.items() <= {
        i.image_id: i.split for i in source.items
    }.items()
    assert masked.mask(masked.items[1]).tolist() == masks[masked.items[1].image_id].tolist()
    assert np.array_equal(
        np.array(masked.load(masked.items[2])), np.array(source.load(source.items[2]))
    )
    turned = {name: 1 - mask for name, mask in masks.items()}
    assert MaskedImages(source, turned, ["a", "b"]).fingerprint() != masked.fingerprint()
    with pytest.raises(ValueError, match="nowhere"):
        MaskedImages(source, {"nowhere.jpg": masks[masked.items[0].image_id]}, ["a"])
