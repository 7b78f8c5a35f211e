"""Data sets that download themselves, each as a tiny archive of its layout on a local server."""

import hashlib
import io
import json
import pickle
import tarfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from datamodules.images.from_spec import source_from_spec
from datamodules.images.torchvision_sets import SETS, TorchvisionImages
from saev.errors import UserError


def jpeg(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(buffer, "JPEG")
    return buffer.getvalue()


def archive(path: Path, members: dict[str, bytes]) -> str:
    """Writes a .tar.gz and returns its MD5."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return md5(path.read_bytes())


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def www(tmp_path) -> Path:
    (tmp_path / "www").mkdir()
    return tmp_path / "www"


@pytest.fixture
def server(www) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(www)))
    thread = Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    thread.join()
    http.server_close()


def expect(monkeypatch, dataset: str, *n_images: int) -> None:
    """Sets the number of images per split to that of the tiny copy."""
    parts = [
        part._replace(n_images=n) for part, n in zip(SETS[dataset].parts, n_images, strict=True)
    ]
    monkeypatch.setitem(SETS, dataset, SETS[dataset]._replace(parts=tuple(parts)))


@pytest.fixture
def imagenette(www, server, monkeypatch) -> None:
    members = {
        f"imagenette2-320/{split}/{wnid}/{wnid}_{n}.JPEG": jpeg(n)
        for split, count in (("train", 3), ("val", 1))
        for wnid in ("n01440764", "n02102040")
        for n in range(count)
    }
    digest = archive(www / "imagenette2-320.tgz", members)
    url = f"{server}/imagenette2-320.tgz"
    monkeypatch.setattr(datasets.Imagenette, "_ARCHIVES", {"320px": (url, digest)})
    expect(monkeypatch, "imagenette", 6, 2)


@pytest.fixture
def oxford_pet(www, server, monkeypatch) -> None:
    names = {"Abyssinian_1": 1, "Abyssinian_2": 1, "great_pyrenees_1": 2, "great_pyrenees_2": 2}
    lists = {
        f"annotations/{part}.txt": "".join(
            f"{name} {label} 1 1\n" for name, label in names.items() if name.endswith(ending)
        ).encode()
        for part, ending in (("trainval", "_1"), ("test", "_2"))
    }
    images = {f"images/{name}.jpg": jpeg(n) for n, name in enumerate(names)}
    resources = [
        (f"{server}/{name}.tar.gz", archive(www / f"{name}.tar.gz", members))
        for name, members in (("images", images), ("annotations", lists))
    ]
    monkeypatch.setattr(datasets.OxfordIIITPet, "_RESOURCES", resources)
    expect(monkeypatch, "oxford_pet", 2, 2)


@pytest.fixture
def cifar(www, server, monkeypatch) -> None:
    """Both CIFARs; their files are checked one by one."""
    rng = np.random.default_rng(0)
    for kind, key, names in (
        (datasets.CIFAR10, "labels", "label_names"),
        (datasets.CIFAR100, "fine_labels", "fine_label_names"),
    ):
        batches = {
            name: pickle.dumps(
                {"data": rng.integers(0, 256, (4, 3072), dtype=np.uint8), key: [0, 1, 1, 0]}
            )
            for name in ("train", "test")
        }
        batches["meta"] = pickle.dumps({names: ["maple_tree", "boat"]})
        url = f"{server}/{kind.filename}"
        digest = archive(
            www / kind.filename, {f"{kind.base_folder}/{n}": c for n, c in batches.items()}
        )
        monkeypatch.setattr(kind, "url", url)
        monkeypatch.setattr(kind, "tgz_md5", digest)
        monkeypatch.setattr(kind, "train_list", [["train", md5(batches["train"])]])
        monkeypatch.setattr(kind, "test_list", [["test", md5(batches["test"])]])
        meta = {"filename": "meta", "key": names, "md5": md5(batches["meta"])}
        monkeypatch.setattr(kind, "meta", meta)
    for dataset in ("cifar10", "cifar100"):
        expect(monkeypatch, dataset, 4, 4)


@pytest.fixture
def flowers102(www, server, monkeypatch) -> None:
    images = {f"jpg/image_{n:05d}.jpg": jpeg(n) for n in range(1, 7)}
    savemat(www / "imagelabels.mat", {"labels": np.arange(1, 7)})
    savemat(www / "setid.mat", {"trnid": [1, 2], "valid": [3, 4], "tstid": [5, 6]})
    files = {
        "image": ("102flowers.tgz", archive(www / "102flowers.tgz", images)),
        "label": ("imagelabels.mat", md5((www / "imagelabels.mat").read_bytes())),
        "setid": ("setid.mat", md5((www / "setid.mat").read_bytes())),
    }
    monkeypatch.setattr(datasets.Flowers102, "_download_url_prefix", f"{server}/")
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", files)
    expect(monkeypatch, "flowers102", 2, 2, 2)


@pytest.fixture
def food101(www, server, monkeypatch) -> None:
    members = {f"food-101/images/{dish}/{n}.jpg": jpeg(n) for dish in "ab" for n in (1, 2)}
    for split, n in (("train", 1), ("test", 2)):
        listing = {dish: [f"{dish}/{n}"] for dish in "ab"}
        members[f"food-101/meta/{split}.json"] = json.dumps(listing).encode()
    monkeypatch.setattr(datasets.Food101, "_URL", f"{server}/food-101.tar.gz")
    monkeypatch.setattr(datasets.Food101, "_MD5", archive(www / "food-101.tar.gz", members))
    expect(monkeypatch, "food101", 2, 2)


@pytest.mark.parametrize(
    ("dataset", "fixture", "splits", "first_classes"),
    [
        ("imagenette", "imagenette", "train*6 val*2", ["tench", "English springer"]),
        ("oxford_pet", "oxford_pet", "train*2 test*2", ["Abyssinian", "Great Pyrenees"]),
        ("cifar10", "cifar", "train*4 test*4", ["maple tree", "boat"]),
        ("cifar100", "cifar", "train*4 test*4", ["maple tree", "boat"]),
        ("flowers102", "flowers102", "train*2 val*2 test*2", ["pink primrose"]),
        ("food101", "food101", "train*2 test*2", ["a", "b"]),
    ],
)
def test_download_list_load_and_rebuild(
    dataset, fixture, splits, first_classes, request, tmp_path, www
):
    request.getfixturevalue(fixture)
    source = TorchvisionImages(dataset, str(tmp_path / "data"))
    assert source.name == dataset
    for word in splits.split():
        split, _, count = word.partition("*")
        assert len(source.split(split)) == int(count)
    assert len(source.items) == sum(int(word.partition("*")[2]) for word in splits.split())
    assert source.class_names is not None
    assert source.class_names[: len(first_classes)] == first_classes
    assert all(item.image_id.startswith(f"{dataset}/") for item in source.items)
    for item in source.items:
        assert item.label is not None and 0 <= item.label < len(source.class_names)
        image = source.load(item)
        assert image.mode == "RGB" and image.size in ((8, 8), (32, 32))
    for file in www.iterdir():  # from here on nothing can be downloaded
        file.unlink()
    again = source_from_spec(json.loads(json.dumps(source.spec())), "it")
    assert again.items == source.items
    assert again.fingerprint() == source.fingerprint()


def test_cifar_pixels_and_labels_stay_together(cifar, tmp_path):
    source = TorchvisionImages("cifar10", str(tmp_path))
    original = datasets.CIFAR10(str(tmp_path), train=False)
    for number, item in enumerate(source.split("test")):
        image, label = original[number]
        assert item.image_id == f"cifar10/test/{number:06d}"
        assert item.label == label
        assert np.array_equal(np.asarray(source.load(item)), np.asarray(image))


def test_without_network_the_error_says_what_to_set(imagenette, www, tmp_path):
    (www / "imagenette2-320.tgz").unlink()
    with pytest.raises(UserError, match=r"imagenette is not in .*images=folder images\.roots=\["):
        TorchvisionImages("imagenette", str(tmp_path / "data"))
    with pytest.raises(UserError, match=r"does not hold imagenette: set images\.download=true"):
        TorchvisionImages("imagenette", str(tmp_path / "data"), download=False)


def test_a_damaged_archive_is_refused(imagenette, www, tmp_path):
    path = www / "imagenette2-320.tgz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="cannot be downloaded"):
        TorchvisionImages("imagenette", str(tmp_path / "data"))


def test_an_incomplete_copy_is_refused(imagenette, oxford_pet, tmp_path):
    TorchvisionImages("imagenette", str(tmp_path))
    next((tmp_path / "imagenette2-320" / "train").rglob("*.JPEG")).unlink()
    with pytest.raises(UserError, match=r"incomplete \(it has 5 of 6 train images"):
        TorchvisionImages("imagenette", str(tmp_path))
    TorchvisionImages("oxford_pet", str(tmp_path))
    (tmp_path / "oxford-iiit-pet" / "images" / "Abyssinian_1.jpg").unlink()
    with pytest.raises(UserError, match=r"it has no .*Abyssinian_1\.jpg"):
        TorchvisionImages("oxford_pet", str(tmp_path))


def test_bad_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match="dataset is 'mnist'; choose one of imagenette"):
        TorchvisionImages("mnist", str(tmp_path))
    with pytest.raises(ValueError, match=r"val_fraction is 0\.1, but cifar10 brings its own"):
        TorchvisionImages("cifar10", str(tmp_path), val_fraction=0.1)
