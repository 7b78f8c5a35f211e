"""Labels, masks and tables as concepts of the right rows."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.images import FolderImages, ImageItem, ScenesImages, SegmentationImages
from saev.backbones import load_backbone
from saev.concepts.annotations import assign_splits, class_shares, concepts_of, read_table
from saev.errors import UserError


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("timm", "micro", "embedded")


def items(n: int, split: str = "train") -> list[ImageItem]:
    return [ImageItem(f"x/{i}", split, None, None) for i in range(n)]


def test_held_out_images_are_the_test_split() -> None:
    splits = assign_splits(items(200) + items(50, "val"), seed=0)
    assert splits[200:] == ["test"] * 50
    assert "test" not in splits[:200]
    assert 0.15 < splits[:200].count("calibration") / 200 < 0.35


def test_without_held_out_images_a_share_is_drawn_that_stays_put() -> None:
    splits = assign_splits(items(400), seed=0)
    assert 0.22 < splits.count("test") / 400 < 0.38
    assert splits[:100] == assign_splits(items(100), seed=0), "a draw belongs to the image"


def test_patches_take_the_share_that_a_class_covers(backbone) -> None:
    mask = np.zeros((96, 96), np.uint8)
    mask[:, :4] = 1  # half of the first column of 8-pixel patches
    mask[88:, 88:] = 255
    shares = class_shares(mask, 2, backbone).reshape(12, 12, 2)
    np.testing.assert_allclose(shares[:, 0], 0.5)
    np.testing.assert_allclose(shares[0, 5], [1, 0])
    assert shares[11, 11].sum() == 0


def test_masks_by_majority_and_by_share(tmp_path: Path, backbone) -> None:
    for name in ("images", "masks"):
        (tmp_path / "seg" / name).mkdir(parents=True)
    mask = np.zeros((96, 96), np.uint8)
    mask[:, :5] = 1
    Image.new("RGB", (96, 96)).save(tmp_path / "seg/images/a.png")
    Image.fromarray(mask).save(tmp_path / "seg/masks/a.png")
    (tmp_path / "seg/classes.json").write_text('["ground", "thing"]')
    source = SegmentationImages(str(tmp_path / "seg"))
    (majority,) = concepts_of(source, source.items, 3, backbone)
    assert majority.images.tolist() == [3]
    labels = majority.labels.toarray().reshape(12, 12, 2)
    assert labels[0, 0].tolist() == [0, 1] and labels[0, 1].tolist() == [1, 0]
    (share,) = concepts_of(source, source.items, 3, backbone, masks="share")
    np.testing.assert_allclose(share.labels.toarray()[0], [3 / 8, 5 / 8])
    with pytest.raises(UserError, match="majority or share"):
        concepts_of(source, source.items, 0, backbone, masks="most")


def test_folder_labels_leave_unlabelled_images_out(tmp_path: Path, backbone) -> None:
    for name in ("cat/1.png", "dog/2.png", "3.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16)).save(path)
    source = FolderImages(str(tmp_path / "photos"))
    (found,) = concepts_of(source, source.items, 10, backbone)
    ids = [source.items[i - 10].image_id for i in found.images]
    assert ids == ["photos/cat/1.png", "photos/dog/2.png"]
    assert found.labels.toarray().tolist() == [[1, 0], [0, 1]]


def test_scenes_carry_attributes_of_the_scene_and_of_every_object(backbone) -> None:
    source = ScenesImages(4)
    scene, objects = concepts_of(source, source.items, 0, backbone)
    truth = [source.attributes(item) for item in source.items]
    for row, attributes in enumerate(truth):
        told = {scene.names[c] for c in scene.labels[row].indices}
        assert told == {f"{name}={value}" for name, value in attributes.items()}
    labels = objects.labels.toarray().reshape(4, 144, -1)
    main = {f"{a}={truth[0][a]}" for a in ("shape", "colour", "texture", "size", "column", "row")}
    sets = [{objects.names[c] for c in patch.nonzero()[0]} for patch in labels[0]]
    assert main in sets, "some patch belongs to the main object"
    assert set() in sets, "some patch is background"
    assert all(len(s) in (0, 6) for s in sets)


def test_table_reads_parquet_and_skips_empty_cells(tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame({"image_id": ["a", "b"], "wild": [1, 0], "mood": ["calm", None]})
    frame.to_parquet(tmp_path / "t.parquet")
    rows = read_table(tmp_path / "t.parquet", ["a", "b", "c"])
    assert rows == [{"wild": "yes", "mood": "calm"}, {"wild": ""}, {}]


def test_column_of_identifiers_is_refused(tmp_path: Path) -> None:
    ids = [f"i{n}" for n in range(300)]
    text = "image_id,file\n" + "\n".join(f"{i},{i}.jpg" for i in ids)
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match="300 different values"):
        read_table(tmp_path / "t.csv", ids)


def test_a_table_of_ids_alone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image_id\na\n")
    with pytest.raises(UserError, match="the column image_id alone"):
        read_table(tmp_path / "t.csv", ["a"])
