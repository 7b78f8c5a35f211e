"""Image sources from what a file says: known kinds and plain values, or one sentence."""

import inspect
import tarfile
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from datamodules.images import FolderImages, ImageSource, ScenesImages
from datamodules.images.from_spec import ARGUMENTS, KINDS, OLD_NAMES, source_from_spec
from saev.errors import UserError

SCENES: dict[str, Any] = {"n_images": 6, "size": 64, "seed": 1, "on_error": "raise"}


def test_every_kind_names_its_class() -> None:
    for kind, (module, name) in KINDS.items():
        found = getattr(import_module(module), name)
        assert issubclass(found, ImageSource) and found.kind == kind
    assert len(OLD_NAMES) == 2 * len(KINDS)


@pytest.mark.parametrize("name", ["scenes.ScenesImages", "ScenesImages"])
def test_the_old_form_opens_as_the_new_one(name: str) -> None:
    old = source_from_spec({"_target_": f"datamodules.images.{name}", **SCENES}, "it")
    new = source_from_spec({"kind": "scenes", **SCENES}, "it")
    assert isinstance(old, ScenesImages) and old.items == new.items
    assert old.spec() == new.spec() == {"kind": "scenes", "val_fraction": 0.2, **SCENES}


@pytest.mark.parametrize(
    "spec",
    [
        {"_target_": "pandas.read_pickle", "filepath_or_buffer": "x.pkl"},
        {"_target_": "builtins.open", "file": "x", "mode": "w"},
        {"_target_": "datamodules.images.tars._run_pipe", "url": "pipe:touch ran", "path": "p"},
        {"_target_": "datamodules.images.from_spec.source_from_spec"},
        {"kind": "pandas.read_pickle"},
        {"kind": ["scenes"]},
        {"n_images": 6},
    ],
)
def test_what_is_no_kind_is_refused_by_name(spec: dict[str, Any], tmp_path: Path) -> None:
    name = repr(spec.get("kind", spec.get("_target_")))
    with pytest.raises(UserError, match=r"^its/sae names its images .* is none of folder") as found:
        source_from_spec(spec, "its/sae")
    assert name in str(found.value)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"_target_": "pandas.read_pickle"}, "an argument '_target_'"),
        ({"on_disk": 1}, "an argument 'on_disk'"),
        ({"size": {"_target_": "pandas.read_pickle"}}, "size is {'_target_'"),
        ({"size": [[1]]}, r"size is \[\[1\]\] where a whole number"),
        ({"size": "${oc.env:SECRET}"}, "size is '..oc.env:SECRET.' where"),
        ({"size": 10**6}, "size is 1000000 where"),
        ({"size": 95.5}, "size is 95.5"),
        ({"size": 3}, "do not work: size is 3"),
        ({"n_images": -1}, "n_images is -1"),
        ({"n_images": True}, "n_images is True"),
        ({"n_images": 10**7}, "10000000 scenes, more than"),
        ({"val_fraction": float("nan")}, "val_fraction is nan"),
        ({"on_error": "ignore"}, "on_error is 'ignore'"),
        ({"seed": 1e9}, "seed is"),
    ],
)
def test_arguments_are_those_of_the_class_and_plain(more: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        source_from_spec({"kind": "scenes", **SCENES, **more}, "its/sae")


def test_there_is_a_check_for_every_argument_of_every_kind() -> None:
    found = {
        argument
        for module, name in KINDS.values()
        for argument in inspect.signature(getattr(import_module(module), name)).parameters
    }
    assert ARGUMENTS.keys() == found


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"kind": "folder", "roots": 5}, "roots is 5"),
        ({"kind": "folder", "roots": ["a", None]}, r"roots\[1\] is None"),
        ({"kind": "folder", "roots": "a\0b"}, "roots is"),
        ({"kind": "folder", "roots": "a", "labels": []}, "labels is"),
        ({"kind": "folder"}, "do not work: "),
        ({"kind": "segmentation", "roots": "a", "void_value": 300}, "void_value is 300"),
        ({"kind": "webdataset", "urls": {"a": 1}}, "urls is"),
        ({"kind": "webdataset", "urls": []}, "no image tars are given"),
        ({"kind": "webdataset", "urls": "a.tar", "classes": "abc"}, "classes is 'abc'"),
        ({"kind": "webdataset", "urls": "{0..999999999999}.tar"}, "more than 1,000,000 tars"),
        ({"kind": "webdataset", "urls": "{a,b}" * 40}, "more than 1,000,000 tars"),
        ({"kind": "webdataset", "urls": "{" + "{a,b}" * 40 + ",c}"}, "more than 1,000,000 tars"),
        ({"kind": "webdataset", "urls": "{" * 5000}, "more than 1,000,000 tars"),
        ({"kind": "torchvision", "dataset": 5, "root": "r"}, "dataset is 5"),
        ({"kind": "pasted", "roots": "a", "kinds": "red"}, "kinds is 'red'"),
        ({"kind": "pasted", "roots": "a", "share": 2}, "share is 2"),
    ],
)
def test_no_argument_is_believed(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as found:
        source_from_spec(spec, "its/sae")
    assert len(str(found.value)) < 600


def test_a_text_stays_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "${oc.env:SECRET}"
    folder.mkdir()
    Image.new("RGB", (2, 2)).save(folder / "a.png")
    source = source_from_spec({"kind": "folder", "roots": "${oc.env:SECRET}"}, "it")
    assert isinstance(source, FolderImages) and source.name == "${oc.env:SECRET}"
    with pytest.raises(UserError) as found:
        source_from_spec({"kind": "folder", "roots": "${oc.env:SECRET}/b"}, "it")
    assert "hunter2" not in str(found.value)


@pytest.mark.parametrize(
    "url",
    [
        "pipe:touch ran",
        "http://127.0.0.1:9/${oc.env:SECRET}.tar",
        "https://127.0.0.1:9/x.tar",
        "s3://bucket/x.tar",
        "{pipe:touch ran,b}",
        "http{s,}://127.0.0.1:9/x.tar",
    ],
)
@pytest.mark.parametrize("wrap", [str, lambda url: ["a.tar", url]], ids=["one", "list"])
def test_nothing_is_fetched_because_a_file_says_so(
    url: str, wrap: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET", "hunter2")
    with pytest.raises(UserError, match=r"^its/sae says .* add images=webdataset") as found:
        source_from_spec({"kind": "webdataset", "urls": wrap(url), "cache_dir": "c"}, "its/sae")
    assert "hunter2" not in str(found.value) and url in str(found.value)
    assert list(tmp_path.iterdir()) == []


def test_hub_addresses_are_no_local_tars(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has the scheme hf://"):
        source_from_spec({"kind": "webdataset", "urls": "hf://a/b.tar"}, "it")


def test_local_tars_open(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "a.png", "a.png")
    source = source_from_spec({"kind": "webdataset", "urls": [str(tmp_path / "x.tar")]}, "it")
    assert [item.image_id for item in source.items] == ["x/a"]


def test_a_folder_that_somebody_else_chose_is_not_made(tmp_path: Path) -> None:
    spec = {"kind": "torchvision", "dataset": "cifar10", "root": str(tmp_path / "new")}
    with pytest.raises(UserError, match=r"does not hold cifar10: .*images\.root"):
        source_from_spec(spec, "it")
    assert not (tmp_path / "new").exists()


def test_nothing_is_downloaded_into_a_folder_that_is_there(tmp_path: Path) -> None:
    spec = {"kind": "torchvision", "dataset": "cifar10", "root": str(tmp_path), "download": True}
    with pytest.raises(UserError, match=r"does not hold cifar10: .*images\.root"):
        source_from_spec(spec, "it")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_mapping_is_refused() -> None:
    with pytest.raises(UserError, match="its/sae gives its images as 'scenes'"):
        source_from_spec("scenes", "its/sae")
