"""Scenes as an image source."""

import json

import numpy as np
import pytest

from datamodules.images import ScenesImages
from datamodules.images.from_spec import source_from_spec
from datamodules.scenes import SHAPES, draw_scene


def test_items_labels_images_and_masks_agree_with_the_generator():
    source = ScenesImages(n_images=12, size=48, seed=5)
    assert [item.image_id for item in source.items] == [f"scenes-5/{n:06d}" for n in range(12)]
    assert source.class_names == list(SHAPES)
    for number, item in enumerate(source.items):
        scene = draw_scene(5, number, 48)
        assert item.label == scene.class_label
        assert item.path is None
        assert np.array_equal(np.asarray(source.load(item)), scene.image)
        assert np.array_equal(source.mask(item), scene.semantic_mask)
        assert source.attributes(item)["shape"] == SHAPES[scene.class_label]


def test_held_out_share():
    source = ScenesImages(n_images=1000, size=64)
    assert 160 < len(source.split("heldout")) < 240
    fewer = ScenesImages(n_images=300, size=64)
    assert [item for item in source.items[:300]] == fewer.items


def test_spec_and_fingerprint():
    source = ScenesImages(n_images=6, size=64, seed=2)
    again = source_from_spec(json.loads(json.dumps(source.spec())), "it")
    assert again.items == source.items
    assert again.fingerprint() == source.fingerprint()
    others = [
        ScenesImages(n_images=6, size=72, seed=2),
        ScenesImages(n_images=6, size=64, seed=3),
        ScenesImages(n_images=7, size=64, seed=2),
    ]
    assert all(other.fingerprint() != source.fingerprint() for other in others)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="size is 8"):
        ScenesImages(n_images=3, size=8)
    with pytest.raises(ValueError, match="n_images is 0"):
        ScenesImages(n_images=0)
    with pytest.raises(ValueError, match="seed is -1"):
        ScenesImages(n_images=3, seed=-1)
