"""An atlas for FiftyOne: the folder, and that FiftyOne reads it where it is installed."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from datamodules.images import FolderImages
from saev.atlas.atlas import Atlas
from saev.codes.store import CodeStore
from saev.errors import UserError
from tests.fakes.backbone import TinyBackbone
from tests.fakes.codes import build


@pytest.fixture
def model() -> TinyBackbone:
    model = TinyBackbone()
    model.mean, model.std = (0.5,) * 3, (1.0,) * 3
    return model


@pytest.fixture
def photos(tmp_path: Path) -> FolderImages:
    """Four pictures of 8 × 8 pixels in two classes."""
    for number in range(4):
        folder = tmp_path / "photos" / ("cat" if number < 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (60 * number, 7, 0)).save(folder / f"{number}.png")
    return FolderImages([str(tmp_path / "photos")], labels="folder")


@pytest.fixture
def atlas(tmp_path: Path, photos: FolderImages) -> Atlas:
    """Latent 0 is dense; 1 fires on patch 2 of the first picture, 2 on two of its patches, 3 on a
    dog; the last picture has none. Five images: one of another source."""
    folder = tmp_path / "latents"
    z = torch.zeros(5, 4, 4)
    z[..., 0] = 9
    z[0, 2, 1] = 2.0
    z[0, 0, 2], z[0, 3, 2] = 1.0, 3.0
    z[2, 1, 3] = 0.5
    ids = [*(item.image_id for item in photos.items), "elsewhere/0"]
    store = CodeStore.create(folder / "codes", ids, n_latents=4, n_tokens=4,
                             identity={"dictionary": "ab"}, images_per_part=3)  # fmt: skip
    for part in store.missing():
        span = store.images_of(part)
        store.write(part, build(z[span.start : span.stop]))
    latents = pd.DataFrame(
        {"latent": range(4), "name": [None, "star", None, "dog"], "max": [9.0, 4.0, 3.0, 1.0],
         "name_confidence": [0, 0.75, 0, 0.5], "rate_image": 0.0,
         "rate_token": (z > 0).flatten(0, 1).float().mean(0).numpy()}
    )  # fmt: skip
    listed = [{"image_id": one, "source": "photos", "split": "test"} for one in ids]
    (folder / "images.json").write_text(json.dumps(listed))
    (folder / "atlas.json").write_text('{"format_version": 1, "grid": [2, 2]}')
    empty = pd.DataFrame()
    return Atlas(folder, {"latents": latents, **dict.fromkeys(
        ("concepts", "exemplars", "names", "coactivation"), empty)})  # fmt: skip


def samples_of(folder: Path) -> list[dict]:
    return json.loads((folder / "samples.json").read_text())["samples"]


def test_each_image_has_its_strongest_latents_and_their_maps(
    atlas, photos, model, tmp_path: Path
) -> None:
    out = atlas.to_fiftyone(tmp_path / "out", photos, model, max_rate=0.2)
    first, second, third, last = samples_of(out)
    latents = first["latents"]["classifications"]
    assert [one["latent"] for one in latents] == [2, 1], "by code; the dense one is left out"
    assert latents[0] == {"_cls": "Classification", "label": "2", "latent": 2, "code": 3.0}
    assert latents[1]["label"] == "1 star" and latents[1]["confidence"] == 0.75
    assert (first["ground_truth"]["label"], first["tags"]) == ("cat", ["test"])
    assert first["image_id"] == photos.items[0].image_id
    assert second["latents"]["classifications"] == [] and "heat_1" not in second
    assert third["latents"]["classifications"][0]["name"] == "dog"
    assert last["image_id"] == photos.items[3].image_id
    heat = np.asarray(Image.open(out / first["heat_1"]["map_path"]))
    assert heat.tolist() == [[85, 0], [0, 255]] and first["heat_1"]["range"] == [0, 255]
    assert np.asarray(Image.open(out / first["heat_2"]["map_path"])).max() == 128  # of 4
    assert first["heat_2"]["name"] == "star"
    shown = Image.open(out / last["filepath"])
    assert shown.size == (8, 8) and shown.getpixel((3, 3)) == (180, 7, 0)
    assert len(list((out / "data").iterdir())) == 4


def test_few_latents_and_every_rate(atlas, photos, model, tmp_path: Path) -> None:
    out = atlas.to_fiftyone(tmp_path / "out", photos, model, n_latents=1, max_rate=1.0)
    assert [one["latents"]["classifications"][0]["latent"] for one in samples_of(out)] == [0] * 4
    assert [folder.name for folder in (out / "fields").iterdir()] == ["heat_1"]


def test_what_does_not_fit_is_refused(atlas, photos, model, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        atlas.to_fiftyone(tmp_path / "full", photos, model)
    Image.new("RGB", (8, 8)).save(tmp_path / "full/other.png")
    with pytest.raises(UserError, match=r"has no image of .*such as"):
        atlas.to_fiftyone(tmp_path / "out", tmp_path / "full", model)
    model.grid = (4, 4)
    with pytest.raises(UserError, match="2 × 2 patches and Tiny ViT/4 has 4 × 4"):
        atlas.to_fiftyone(tmp_path / "out", photos, model)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of FiftyOne and what it stands on
def test_fiftyone_reads_it(
    atlas, photos, model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FiftyOne's own importer, on a stand-in for MongoDB: ``pip install fiftyone mongomock``."""
    mongomock = pytest.importorskip("mongomock")
    mongoengine = pytest.importorskip("mongoengine")
    pymongo = pytest.importorskip("pymongo")
    assert "fiftyone" not in sys.modules
    uri = "mongodb://localhost:27017"
    client = mongomock.MongoClient(uri)
    client._closed = False
    connect = mongoengine.connect
    monkeypatch.setattr(pymongo, "MongoClient", lambda *args, **kwargs: client)
    monkeypatch.setattr(
        mongoengine, "connect",
        lambda name, **kwargs: connect(name, host=uri, mongo_client_class=lambda *a, **k: client),
    )  # fmt: skip
    for key, value in {"DATABASE_URI": uri, "DATABASE_VALIDATION": "false", "DO_NOT_TRACK": "1",
                       "DISABLE_SERVICES": "1"}.items():  # fmt: skip
        monkeypatch.setenv(f"FIFTYONE_{key}", value)
    fo = pytest.importorskip("fiftyone")
    out = atlas.to_fiftyone(tmp_path / "out", photos, model, max_rate=0.2)
    dataset = fo.Dataset.from_dir(
        dataset_dir=str(out), dataset_type=fo.types.LegacyFiftyOneDataset, progress=False
    )
    first = next(iter(dataset))
    assert len(dataset) == 4 and dataset.info["grid"] == [2, 2]
    assert Path(first.filepath) == out / "data/000000.png" and first.tags == ["test"]
    assert [one.label for one in first.latents.classifications] == ["2", "1 star"]
    assert first.latents.classifications[1].code == 2.0
    assert (first.ground_truth.label, first.image_id) == ("cat", photos.items[0].image_id)
    assert first.heat_1.get_map().tolist() == [[85, 0], [0, 255]]
    assert type(first.heat_1) is fo.Heatmap and first.heat_2.name == "star"
    assert {"latents", "heat_1", "heat_2", "ground_truth"} <= set(dataset.get_field_schema())
    dogs = dataset.match(fo.ViewField("ground_truth.label") == "dog")
    assert len(dogs) == 2
