"""Images of several sources as one list, broken ones among them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.images import FolderImages
from saev.codes.images import ImageList, pixel_batches
from saev.errors import UserError
from tests.fakes.backbone import SIDE, TinyBackbone


def folder_source(root: Path, broken: tuple[int, ...]) -> FolderImages:
    """Four pictures, each a grey of its own."""
    root.mkdir()
    for number in range(4):
        file = root / f"{number}.png"
        if number in broken:
            file.write_bytes(b"no image")
        else:
            Image.new("RGB", (SIDE, SIDE), (10 + number,) * 3).save(file)
    return FolderImages(str(root), val_fraction=0.0, on_error="skip")


@pytest.fixture
def images(tmp_path: Path) -> ImageList:
    one, two = folder_source(tmp_path / "one", (1,)), folder_source(tmp_path / "two", (0, 1))
    return ImageList.of({"one": one, "two": two}, None)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_pixels_come_in_the_order_asked_for(images: ImageList, num_workers: int) -> None:
    backbone = TinyBackbone()
    asked = [7, 1, 0, 4, 5, 6]  # one/1, two/0 and two/1 are broken; batches of two
    batches = list(pixel_batches(images, asked, backbone, 2, num_workers))
    assert [whole.tolist() for _, whole in batches] == [[True, False], [True, False], [False, True]]
    pixels = torch.cat([pixels for pixels, _ in batches])
    for row, index in zip(pixels, asked, strict=True):
        name, item = images.entries[index]
        image = images.sources[name].try_load(item)
        expected = backbone.transform(image) if isinstance(image, Image.Image) else 0 * row
        assert torch.equal(row, expected)
    skipped = {name: source.n_skipped for name, source in images.sources.items()}
    assert [entry["image_id"] for entry in skipped["one"]] == ["one/1.png"]
    assert [entry["image_id"] for entry in skipped["two"]] == ["two/0.png", "two/1.png"]


def test_every_image_knows_its_source(images: ImageList) -> None:
    assert images.of_source("two") == (4, images.sources["two"].items)
    for name, item in images.entries:
        assert images.source_of(item) is images.sources[name]


def test_an_image_in_two_sources_is_refused(images: ImageList) -> None:
    source = images.sources["one"]
    with pytest.raises(UserError, match=r"'one/0\.png' is in two of the image sources"):
        ImageList.of({"one": source, "again": source}, None)
    assert len(ImageList.of({"one": source}, 3).entries) == 3


def test_a_broken_picture_is_grey(images: ImageList) -> None:
    assert np.unique(images.picture(1, TinyBackbone())).tolist() == [128]
