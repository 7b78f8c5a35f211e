"""The walk over images: order, broken ones, workers."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from datamodules.images import BrokenImage, FolderImages, image_batches
from datamodules.images.batches import in_order, loaded_batches

BROKEN = (1, 4, 5)
"""With batches of two, the third has no good image."""


def first_pixel(image: Image.Image) -> Tensor:
    """A picture (3, 1, 1) whose value says which file it was."""
    return torch.tensor(image.getpixel((0, 0))).view(3, 1, 1)


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(7):
        file = folder / f"{number}.png"
        if number in BROKEN:
            file.write_bytes(b"no image")
        else:
            Image.new("RGB", (2, 2), (number, number, number)).save(file)
    return folder


def source_of(roots: Path, on_error: str) -> FolderImages:
    return FolderImages(str(roots), val_fraction=0.0, on_error=on_error)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_good_images_in_order_and_broken_ones_reported(roots: Path, num_workers: int) -> None:
    source = source_of(roots, "skip")
    batches = list(
        image_batches(
            source, source.items, first_pixel,
            batch_size=2, num_workers=num_workers, description="testing",
        )
    )  # fmt: skip
    assert [batch.positions for batch in batches] == [[0], [2, 3], [6]]
    assert [batch.images[:, 0, 0, 0].tolist() for batch in batches] == [[0], [2, 3], [6]]
    assert [[item.path for item in batch.items] for batch in batches][1] == ["2.png", "3.png"]
    assert [entry["image_id"] for entry in source.n_skipped] == [
        f"pictures/{number}.png" for number in BROKEN
    ]


def test_a_broken_image_ends_the_walk_where_the_source_says_so(roots: Path) -> None:
    source = source_of(roots, "raise")
    with pytest.raises(BrokenImage, match=r"1\.png"):
        list(
            image_batches(
                source, source.items, first_pixel,
                batch_size=2, num_workers=0, description="testing",
            )
        )  # fmt: skip


def test_every_chunk_has_its_batch(roots: Path) -> None:
    source = source_of(roots, "skip")
    chunks = [[5, 4], [6, 0, 1]]
    batches = loaded_batches(source, source.items, first_pixel, chunks, num_workers=0)
    found = [(batch.positions, len(batch.broken)) for batch in batches]
    assert found == [([], 2), ([6, 0], 1)]
    assert list(loaded_batches(source, source.items, first_pixel, [], num_workers=2)) == []


def test_in_order_covers_every_position_once() -> None:
    assert in_order(7, 3) == [range(0, 3), range(3, 6), range(6, 7)]
    assert in_order(0, 3) == []
    with pytest.raises(ValueError, match="batch_size=0 must be at least 1"):
        in_order(7, 0)
