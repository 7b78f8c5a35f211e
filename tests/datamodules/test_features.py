"""Final features on disk and the batches that heads are trained on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.activations.format import Manifest
from datamodules.activations.tar import iter_samples
from datamodules.features import FeatureDataModule, item_of
from datamodules.images import FolderImages, ScenesImages, SegmentationImages
from saev.backbones import Backbone, load_backbone
from saev.errors import UserError
from saev.heads.targets import class_names_of, labels_of
from saev.recording.final_features import record_features

IGNORE = 255


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("timm", "micro", "embedded")


@pytest.fixture(scope="module")
def source() -> ScenesImages:
    return ScenesImages(12, val_fraction=0.25)


def recorded(backbone, source, features: str, root: Path) -> Path:
    return record_features(
        backbone, source, features, root,
        batch_size=5, num_workers=0, images_per_shard=4, dtype="float32", progress=False,
    )  # fmt: skip


@pytest.mark.parametrize("features", ["class", "pooled", "embedding", "patches"])
def test_holds_what_the_model_ends_in(features: str, backbone, source, tmp_path: Path) -> None:
    folder = recorded(backbone, source, features, tmp_path)
    manifest = Manifest.read(folder)
    seen = {}
    for shard in manifest.shards:
        for sample in iter_samples(folder, shard):
            item = item_of(sample)
            assert item in source.items and (shard.split == "train") == (item.split == "train")
            seen[item.image_id] = torch.from_numpy(sample.acts)
    assert len(seen) == 12
    item = source.items[7]
    with torch.inference_mode():
        output = backbone(backbone.transform(source.load(item))[None])
    patches = output.tokens[0, 1:]
    expected = {
        "class": output.tokens[:, 0], "pooled": patches.mean(0, keepdim=True),
        "embedding": output.pooled, "patches": patches,
    }  # fmt: skip
    torch.testing.assert_close(seen[item.image_id], expected[features], rtol=1e-4, atol=1e-4)
    assert manifest.width == expected[features].shape[1]


def test_is_used_again_until_something_changes(backbone, source, tmp_path: Path) -> None:
    folder = recorded(backbone, source, "class", tmp_path)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
    assert recorded(backbone, source, "class", tmp_path) == folder
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
    squashed = load_backbone("timm", "micro", "embedded", mean=[0.4] * 3, std=[0.5] * 3)
    others = [
        recorded(backbone, source, "embedding", tmp_path),
        recorded(squashed, source, "class", tmp_path),
        recorded(backbone, ScenesImages(11, val_fraction=0.25), "class", tmp_path),
    ]
    assert len({folder, *others}) == 4


SETTINGS = {"batch_size": 2048, "selection_fraction": 0.2, "seed": 0, "verify_checksums": True}


def module_of(folder: Path, backbone, source, kind: str, **settings) -> FeatureDataModule:
    n_classes = len(class_names_of(source, kind))
    labels = labels_of(source, backbone, kind)
    data = FeatureDataModule(str(folder), labels, n_classes, **{**SETTINGS, **settings})
    data.prepare_data()
    data.setup("fit")
    return data


def test_divides_the_training_images_and_no_others(backbone, source, tmp_path: Path) -> None:
    folder = recorded(backbone, source, "patches", tmp_path)
    data = module_of(folder, backbone, source, "segmentation", selection_fraction=0.3)
    training = source.split("train")
    assert data.n_images == {
        "n_images": len(training), "n_selection_images": round(0.3 * len(training))
    }  # fmt: skip
    assert data.training is not None
    n_patches = backbone.grid[0] * backbone.grid[1]
    assert len(data.training) == n_patches * len(training)
    per_image = data.training.selects.view(len(training), n_patches)
    assert torch.equal(per_image.all(1), per_image.any(1))  # an image is never divided
    n_chosen = sum(len(batch.labels) for batch in data.val_dataloader())
    assert n_chosen == int(data.training.selects.sum())
    assert all(batch.selects.all() for batch in data.val_dataloader())
    again = module_of(folder, backbone, source, "segmentation", selection_fraction=0.3)
    assert torch.equal(again.training.selects, data.training.selects)  # type: ignore[union-attr]


def test_each_row_comes_with_its_own_label_once_per_round(backbone, source, tmp_path) -> None:
    folder = recorded(backbone, source, "class", tmp_path)
    data = module_of(folder, backbone, source, "classification", batch_size=4)
    labels = {}
    for item in source.split("train"):
        with torch.inference_mode():
            tokens = backbone(backbone.transform(source.load(item))[None]).tokens
        labels[item.label] = tokens[0, 0]
    n = len(source.split("train"))
    batches = [batch for batch, _ in zip(data.train_dataloader(), range(-(-n // 4)), strict=False)]
    assert sum(len(batch.labels) for batch in batches) == n
    rows = torch.cat([batch.rows for batch in batches])
    assert len(rows.unique(dim=0)) == n
    expected = {item.label for item in source.split("train")}
    assert set(torch.cat([batch.labels for batch in batches]).tolist()) == expected
    for label, row in labels.items():
        batch_labels = torch.cat([batch.labels for batch in batches])
        nearest = (rows - row).norm(dim=1).argmin()
        assert batch_labels[nearest] == label


def pictures(root: Path, masks: bool) -> Path:
    for split in ("train", "test"):
        for number in range(3):
            image = root / split / "images" / f"{number}.png"
            mask = root / split / "masks" / f"{number}.png"
            for path in (image, *([mask] if masks else [])):
                path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (96, 96), (80 * number, 0, 0)).save(image)
            if masks:
                values = np.full((96, 96), number % 2, np.uint8)
                values[:, 48:] = 9  # void
                Image.fromarray(values).save(mask)
    (root / "classes.json").write_text('["flat", "round"]')
    return root


def test_void_patches_are_left_out(backbone, tmp_path: Path) -> None:
    source = SegmentationImages([str(pictures(tmp_path / "pics", True))], void_value=9)
    folder = recorded(backbone, source, "patches", tmp_path)
    data = module_of(folder, backbone, source, "segmentation")
    assert data.training is not None
    assert len(data.training) == 3 * 12 * 6
    assert set(data.training.labels.tolist()) == {0, 1}


def test_refuses_sources_without_labels_or_masks(backbone, tmp_path: Path) -> None:
    root = pictures(tmp_path / "pics", False)
    plain = FolderImages([str(root)], labels="none")
    with pytest.raises(UserError, match="has no labels"):
        class_names_of(plain, "classification")
    with pytest.raises(UserError, match="has no masks"):
        class_names_of(plain, "segmentation")
    masked = SegmentationImages([str(pictures(tmp_path / "both", True))], void_value=9)
    with pytest.raises(UserError, match="has no labels"):
        class_names_of(masked, "classification")
    assert class_names_of(ScenesImages(3), "segmentation")[0] == "background"


def test_refuses_too_few_images_and_damage(backbone, tmp_path: Path) -> None:
    source = ScenesImages(4, val_fraction=0.5, seed=0)
    folder = recorded(backbone, source, "class", tmp_path)
    first = source.split("train")[0]
    data = FeatureDataModule(
        str(folder), lambda item: torch.tensor([0 if item == first else -1]), 8, **SETTINGS
    )
    with pytest.raises(UserError, match="1 training images with a label"):
        data.setup("fit")
    tar = next(folder.glob("train-*.tar"))
    content = bytearray(tar.read_bytes())
    content[1000] ^= 1
    tar.write_bytes(bytes(content))
    with pytest.raises(UserError, match="is damaged"):
        module_of(folder, backbone, source, "classification")
    with pytest.raises(ValueError, match="selection_fraction"):
        module_of(folder, backbone, source, "classification", selection_fraction=1.5)
