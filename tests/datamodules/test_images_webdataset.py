"""Image tars: every way to name them, labels, random access, and damage refused by name."""

import json
import pickle
import tarfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from datamodules.images import BrokenImage, WebDatasetImages
from datamodules.images.from_spec import source_from_spec
from saev.errors import UserError
from tests.fakes.hostile import sparse_tar


def picture(shade: int) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (6, 5), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes], mode: Literal["w", "w:gz"] = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, BytesIO(content))
    return path


def samples(first: int, count: int, label: bool = True) -> dict[str, bytes]:
    members = {}
    for number in range(first, first + count):
        members[f"s/{number:03d}.png"] = picture(number)
        if label:
            members[f"s/{number:03d}.cls"] = str(number % 3).encode()
    return members


def shades(source: WebDatasetImages) -> dict[str, int]:
    return {item.image_id: int(np.asarray(source.load(item))[0, 0, 0]) for item in source.items}


@pytest.fixture
def tars(tmp_path) -> Path:
    folder = tmp_path / "tars"
    write_tar(folder / "train-000.tar", samples(0, 4))
    write_tar(folder / "train-001.tar", samples(4, 3))
    write_tar(folder / "validation-000.tar", samples(7, 2))
    return folder


@pytest.fixture
def server(tars) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tars)))
    thread = Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    thread.join()
    http.server_close()


EXPECTED = {f"train-00{n // 4}/s/{n:03d}": n for n in range(7)}


def test_path_glob_braces_and_list_agree(tars):
    for urls in (
        f"{tars}/train-*.tar",
        f"{tars}/train-{{000..001}}.tar",
        [f"{tars}/train-001.tar", f"{tars}/train-000.tar"],
    ):
        assert shades(WebDatasetImages(urls)) == EXPECTED
    assert shades(WebDatasetImages(f"{tars}/train-000.tar")) == {
        name: shade for name, shade in EXPECTED.items() if name.startswith("train-000")
    }


def test_pipe_and_http_are_fetched_once(tars, server, tmp_path):
    cache = tmp_path / "cache"
    urls = [f"pipe:cat {tars}/train-000.tar", f"{server}/train-{{001..001}}.tar?key=1"]
    assert shades(WebDatasetImages(urls, cache_dir=str(cache))) == EXPECTED
    assert sorted(path.suffix for path in cache.iterdir()) == [".tar", ".tar"]
    for path in tars.iterdir():
        path.unlink()
    assert shades(WebDatasetImages(urls, cache_dir=str(cache))) == EXPECTED


def test_splits_labels_and_names(tars):
    source = WebDatasetImages(f"{tars}/*.tar", classes=["a", "b", "c"])
    assert source.class_names == ["a", "b", "c"]
    assert len(source.split("train")) == 7
    assert [item.split for item in source.split("heldout")] == ["val", "val"]
    assert [item.label for item in source.items] == [n % 3 for n in range(9)]
    assert source.items[0].path == "s/000.png"
    assert WebDatasetImages(f"{tars}/*.tar").class_names == ["0", "1", "2"]
    with pytest.raises(UserError, match=r"the label 2 of .*s/002\.png is none of the 2 classes"):
        WebDatasetImages(f"{tars}/*.tar", classes=["a", "b"])


def test_tars_without_a_split_hold_out_a_share(tmp_path):
    write_tar(tmp_path / "photos.tar", samples(0, 40, label=False))
    source = WebDatasetImages(f"{tmp_path}/photos.tar", val_fraction=0.3)
    assert source.class_names is None
    assert 0 < len(source.split("heldout")) < 25


def test_json_labels_by_name_beside_numbers(tmp_path):
    members: dict[str, bytes] = {}
    for key, record in {"a": {"kind": "owl"}, "b": {"kind": 7}, "c": {}, "d": [1]}.items():
        members |= {f"{key}.png": picture(1), f"{key}.json": json.dumps(record).encode()}
    write_tar(tmp_path / "x.tar", members)
    source = WebDatasetImages(f"{tmp_path}/x.tar", label_key="kind")
    assert source.class_names == ["7", "owl"]
    assert [item.label for item in source.items] == [1, 0, None, None]


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ({"a.json": b"{"}, "label of .*x.tar » a cannot be read"),
        ({"a.json": b'{"label": 1.5}'}, r"is 1\.5: it must be a number or a name"),
        ({"a.cls": b"\xff"}, "cannot be read"),
        ({"a.cls": b""}, "is '': it must"),
        ({"a.cls": b"-1"}, r"the label -1 of .* is none of the 0 classes"),
        ({"a.json": b'{"label": -1}'}, r"the label -1 of .* is none of the 0 classes"),
    ],
)
def test_bad_labels(tmp_path, member, message):
    write_tar(tmp_path / "x.tar", {"a.png": picture(0), **member})
    with pytest.raises(UserError, match=message):
        WebDatasetImages(f"{tmp_path}/x.tar")


def test_which_image_of_a_sample(tmp_path):
    members = {"a.jpg": picture(1), "a.seg.png": picture(2), "a.PNG": picture(3)}
    tar = str(write_tar(tmp_path / "x.tar", members))
    with pytest.raises(UserError, match=r"several images \(jpg, png\).*images\.image_key"):
        WebDatasetImages(tar)
    assert shades(WebDatasetImages(tar, image_key="png")) == {"x/a": 3}
    assert shades(WebDatasetImages(tar, image_key="seg.png")) == {"x/a": 2}
    with pytest.raises(UserError, match="hold no images with the suffix 'webp'"):
        WebDatasetImages(tar, image_key="webp")


def test_pickles_are_never_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    bomb = pickle.dumps(Bomb())
    members = {f"a.{suffix}": bomb for suffix in ("pyd", "pickle", "pkl", "pth", "pt")}
    source = WebDatasetImages(str(write_tar(tmp_path / "x.tar", {"a.png": picture(9), **members})))
    assert shades(source) == {"x/a": 9}
    assert not (tmp_path / "ran").exists()


def test_a_broken_image_is_named_by_tar_and_member(tmp_path):
    members = {"a.jpg": b"text", "b.jpg": picture(3)}
    tar = str(write_tar(tmp_path / "x.tar", members))
    source = WebDatasetImages(tar, on_error="skip")
    with pytest.raises(BrokenImage, match=r"x\.tar » a\.jpg .*not an image"):
        source.load(source.items[0])
    assert [source.load_or_skip(item) is None for item in source.items] == [True, False]
    assert source.n_skipped == [{"image_id": "x/a", "reason": "its content is not an image"}]
    Path(tar).unlink()
    with pytest.raises(BrokenImage, match="No such file"):
        source.load(source.items[1])


def test_a_tar_cut_anywhere_is_refused(tmp_path):
    whole = write_tar(tmp_path / "whole.tar", samples(0, 3)).read_bytes()
    content = 6 * 1024  # six members of a header and a data block; then blocks of zeros
    for length in range(0, content + 1, 256):
        (tmp_path / "cut.tar").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut\.tar is cut short or damaged"):
            WebDatasetImages(f"{tmp_path}/cut.tar")


def test_a_damaged_header_is_refused(tmp_path):
    content = bytearray(write_tar(tmp_path / "x.tar", samples(0, 3)).read_bytes())
    content[1024] ^= 1  # the second member's name
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(UserError, match="cut short or damaged after 1 file"):
        WebDatasetImages(f"{tmp_path}/x.tar")


@pytest.mark.parametrize("name", ["../out.png", "a/../../out.png", "/etc/out.png"])
def test_members_that_lead_outside_are_refused(tmp_path, name):
    tar = write_tar(tmp_path / "x.tar", {"a.png": picture(0), name: picture(1)})
    with pytest.raises(UserError, match="leads outside"):
        WebDatasetImages(str(tar))


def test_links_compression_and_repeated_keys_are_refused(tmp_path):
    with tarfile.open(tmp_path / "link.tar", "w") as tar:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(UserError, match="link or device"):
        WebDatasetImages(f"{tmp_path}/link.tar")
    packed = write_tar(tmp_path / "packed.tar", samples(0, 1), mode="w:gz")
    with pytest.raises(UserError, match="is compressed"):
        WebDatasetImages(str(packed))
    twice = write_tar(tmp_path / "twice.tar", samples(0, 1))
    with tarfile.open(twice, "a") as tar:
        tar.addfile(tarfile.TarInfo("s/000.png"), BytesIO())
    with pytest.raises(UserError, match=r"s/000\.png' twice"):
        WebDatasetImages(str(twice))
    with pytest.raises(UserError, match="share the id"):
        one = write_tar(tmp_path / "1" / "x.tar", samples(0, 1))
        two = write_tar(tmp_path / "2" / "x.tar", samples(0, 1))
        WebDatasetImages([str(one), str(two)])


def test_urls_that_lead_nowhere(tars, server, tmp_path):
    cache = str(tmp_path / "cache")
    cases = {
        f"{tars}/none-*.tar": "no image tar matches",
        f"{tars}/train-{{000..005}}.tar": "no image tar matches",
        f"{tars}/train-{{000.tar": "brace",
        "gopher://x/y.tar": "scheme gopher",
        f"{server}/none.tar": "there is nothing at",
        "http://127.0.0.1:9/none.tar": "cannot be fetched",
        "pipe:echo oh no >&2; exit 3": "ended with status 3: oh no",
        f"pipe:head -c 2048 {tars}/train-000.tar": "is cut short or damaged",
    }
    for url, message in cases.items():
        with pytest.raises(UserError, match=message):
            WebDatasetImages(url, cache_dir=cache)
    with pytest.raises(UserError, match=r"set images\.urls"):
        WebDatasetImages([])
    assert not Path(cache).exists() or list(Path(cache).iterdir()) == []


def test_s3_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(
        UserError, match=r"s3fs: install it with pip install 'saev-lightning\[s3\]'"
    ):
        WebDatasetImages("s3://bucket/x.tar", cache_dir=str(tmp_path))


def test_spec_and_fingerprint(tars, tmp_path):
    source = WebDatasetImages(f"{tars}/*.tar", n_images=5, cache_dir=str(tmp_path))
    assert len(source.items) == 5
    again = source_from_spec(json.loads(json.dumps(source.spec())), "it")
    assert again.items == source.items
    assert again.fingerprint() == source.fingerprint()
    assert WebDatasetImages(f"{tars}/*.tar").fingerprint() != source.fingerprint()
    assert shades(pickle.loads(pickle.dumps(source))) == shades(source)


@pytest.mark.parametrize("name", ["a.json", "a.cls", "z.png"])
@pytest.mark.parametrize("n_bytes", [3 << 30, 1 << 40])
def test_a_sparse_member_is_refused_before_it_is_read(tmp_path, name, n_bytes):
    tar = sparse_tar(tmp_path / "x.tar", {"0.png": 0, name: n_bytes}, picture(1))
    with pytest.raises(UserError, match="is sparse: write the tar again"):
        WebDatasetImages(str(tar), on_error="skip")


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (b"1000000000", "label 1000000000 of .* is a number beyond 100,000"),
        (b"100000", "set images.classes"),
        (b"9" * 5000, "a name of at most"),
        (b"a" * 1001, "a name of at most"),
        (b"\xff", "cannot be read"),
    ],
)
def test_a_label_that_is_no_class_is_refused(tmp_path, label, words):
    tar = write_tar(tmp_path / "x.tar", {"0.png": picture(1), "0.cls": label})
    with pytest.raises(UserError, match=words):
        WebDatasetImages(str(tar))


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (b"[" * 100_000, "cannot be read"),
        (b'{"label": "\\ud800"}', "a name of at most"),
        (b'{"label": true}', "label of .* is True"),
        (b'{"label": 1e400}', "label of .* is inf"),
        (b" " * (1 << 20) + b"{}", "a label has at most 1048576"),
    ],
)
def test_a_record_that_is_none_is_refused(tmp_path, record, words):
    tar = write_tar(tmp_path / "x.tar", {"0.png": picture(1), "0.json": record})
    with pytest.raises(UserError, match=words):
        WebDatasetImages(str(tar))


def test_a_name_that_is_no_utf8_is_refused(tmp_path):
    tar = write_tar(tmp_path / "x.tar", {"caf\udce9.png": picture(1)})
    with pytest.raises(UserError, match="is no UTF-8: write the tar again"):
        WebDatasetImages(str(tar))


def test_a_member_that_reaches_past_the_end_is_refused(tmp_path):
    tar = write_tar(tmp_path / "x.tar", {"0.png": picture(1)})
    header = bytearray(tar.read_bytes())
    header[124:136] = b"77777777777\0"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    tar.write_bytes(bytes(header))
    with pytest.raises(UserError, match="reaches past the end"):
        WebDatasetImages(str(tar))


@pytest.mark.parametrize("pattern", ["{0..999999999}.tar", "{a,b}" * 40, "{" * 100 + "}" * 100])
def test_patterns_without_end_are_refused(tmp_path, pattern):
    with pytest.raises(UserError, match="more than 1,000,000 tars"):
        WebDatasetImages(f"{tmp_path}/{pattern}")
