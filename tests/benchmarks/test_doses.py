"""The benchmark of doses looks at discovery images only."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.doses import SETTINGS, pilot, pilot_of
from datamodules.images import FolderImages
from saev.backbones import load_backbone
from saev.heads import Reading, TrainedHead, backbone_identity
from saev.intervention.hypothesis import Hypothesis
from tests.fakes.dictionary import make_sae

CLASSES = ["a", "b", "c"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Pictures of noise around a colour of their class: twelve for training and one for testing."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        for split, n in (("train", 12), ("test", 1)):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 120, (32, 32, 3))
                pixels[..., number] += 120
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "photos"


def test_no_test_image_is_read(root: Path, tmp_path: Path, monkeypatch) -> None:
    backbone = load_backbone("timm", "micro", "embedded", layer=4)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(len(CLASSES), backbone.width, generator=generator)
    head = TrainedHead(
        "classification", Reading.of("pooled", backbone), CLASSES, backbone_identity(backbone),
        weight, torch.zeros(len(CLASSES)),
    )  # fmt: skip
    head.save(tmp_path / "head")
    loaded: set[str] = set()
    load = FolderImages.load
    monkeypatch.setattr(
        FolderImages, "load", lambda self, item: loaded.add(item.split) or load(self, item)
    )
    monkeypatch.setattr("benchmarks.doses.N_WORKERS", 0)  # so that this process does the loading
    images = {"discovery": "train", "test": "test"}
    content = {"selector": {"by": "average_precision", "n": 2}, "images": images}
    file = pilot_of(Hypothesis.from_dict(content, "test.yaml"))
    sae = make_sae(tmp_path / "sae", seed=0)
    row = pilot(file, str(sae), str(tmp_path / "head"), str(root), "embedded")
    assert loaded == {"train"}
    for n, scale in SETTINGS:
        assert 0 <= row[f"{n} at {scale:g}, others change"] <= 100
        assert -100 <= row[f"{n} at {scale:g}, accuracy falls"] <= 100
    assert -100 <= row["random, accuracy falls"] <= 100
    assert row["length"] > 0 and row["10 at -1, others change"] > 0
