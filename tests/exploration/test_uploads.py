"""Uploads: whatever comes is a picture, or is refused in one sentence; nothing touches the disk."""

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saev.errors import UserError
from saev.exploration.explorer import Explorer
from saev.exploration.pictures import MOST_KEPT, MOST_UPLOAD_BYTES, Recent, decode_upload, key_of


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def half_red(mode: str = "RGB") -> Image.Image:
    """Red on the left, blue on the right; 40 × 20."""
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20, 0], pixels[:, 20:, 2] = 255, 255
    return Image.fromarray(pixels).convert(mode)


def huge_png(width: int, height: int) -> bytes:
    """A file of a few hundred bytes that claims any size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def test_an_exif_rotation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    picture = decode_upload(saved(half_red(), "JPEG", exif=exif, quality=95))
    assert picture.size == (20, 40)
    red, blue = picture.getpixel((10, 5)), picture.getpixel((10, 35))
    assert red[0] > 200 > 60 > red[2] and blue[2] > 200 > 60 > blue[0]


@pytest.mark.parametrize(
    ("data", "left"),
    [
        (saved(half_red("L"), "PNG"), (76, 76, 76)),
        (saved(half_red("CMYK"), "JPEG", quality=95), (254, 0, 0)),
        (saved(half_red("P"), "GIF"), (255, 0, 0)),
        (saved(half_red(), "BMP"), (255, 0, 0)),
        (saved(Image.fromarray(np.full((20, 40), 256 * 200, np.uint16)), "PNG"), (200, 200, 200)),
        (saved(Image.new("RGBA", (40, 20), (255, 0, 0, 0)), "PNG"), (255, 255, 255)),
        (saved(Image.new("RGBA", (40, 20), (255, 0, 0, 255)), "WEBP", lossless=True), (255, 0, 0)),
        (saved(Image.new("LA", (40, 20), (0, 0)), "PNG"), (255, 255, 255)),
        (saved(Image.new("1", (40, 20), 1), "PNG"), (255, 255, 255)),
    ],
    ids=["grey", "cmyk", "palette", "bmp", "16 bit", "clear", "webp", "grey and clear", "1 bit"],
)  # fmt: skip
def test_every_mode_becomes_rgb(explorer: Explorer, data: bytes, left: tuple[int, ...]) -> None:
    picture = decode_upload(data)
    assert picture.mode == "RGB" and picture.size == (40, 20)
    np.testing.assert_allclose(picture.getpixel((5, 10)), left, atol=4)
    key = explorer.add_image(data)
    assert explorer.picture(key).size == explorer.setting.backbone.image_size[::-1]
    assert explorer.look(key, [0, 1]) and explorer.title(key) == "uploaded"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"import os\nprint('hello')\n" * 50, "not an image"),
        (b"", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><image href='/etc/passwd'/></svg>", "not an image"),
        (saved(half_red(), "PNG")[:60], "upload cannot be used"),
        (huge_png(10_000, 10_000), "50,000,000 pixels"),
        (huge_png(60_000, 60_000), "50,000,000 pixels"),
        (huge_png(100_000, 5), "upload cannot be used"),
        (b"\0" * (MOST_UPLOAD_BYTES + 1), "20 MB are accepted"),
    ],
    ids=["text", "nothing", "eps", "svg", "cut", "100 megapixels", "3.6 gigapixels", "line", "large"],
)  # fmt: skip
def test_what_is_no_picture_is_refused_in_a_sentence(
    explorer: Explorer, data: bytes, said: str
) -> None:
    with pytest.raises(UserError, match=said) as found:
        explorer.add_image(data)
    assert "\n" not in str(found.value) and len(str(found.value)) < 250


def test_uploads_are_kept_in_bounded_memory_and_never_on_disk(
    explorer: Explorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    first = saved(half_red(), "PNG")
    key = explorer.add_image(first)
    assert key == key_of(first) == explorer.add_image(first)
    for number in range(MOST_KEPT):
        explorer.add_image(saved(Image.new("RGB", (8, 8), (number, 0, 0)), "PNG"))
    assert len(explorer.pictures.uploads) == MOST_KEPT
    with pytest.raises(UserError, match="upload it"):
        explorer.picture(key)
    assert list(tmp_path.iterdir()) == []


def test_an_upload_while_others_compute_changes_no_answer(explorer: Explorer) -> None:
    """Two people edit and look for causes; a third uploads one picture after another."""
    key = explorer.gallery[0].key
    latent = explorer.look(key, None)[0].latent
    edits = [{"kind": "set", "latents": [latent], "scale": -1.0}]
    alone = explorer.edit(key, edits).change
    data = [saved(Image.new("RGB", (30, 30), (40 * n, 90, 200)), "PNG") for n in range(6)]
    with ThreadPoolExecutor(3) as pool:
        edited = [pool.submit(explorer.edit, key, edits) for _ in range(4)]
        caused = pool.submit(explorer.attribution, key, latent)
        curves = pool.submit(explorer.insertion_deletion, key, latent)
        keys = [pool.submit(explorer.add_image, one) for one in data]
        looked = [explorer.look(one.result(), None, n=3) for one in keys]
    assert all(one.result().change == pytest.approx(alone, abs=1e-6) for one in edited)
    assert caused.result().latent == latent
    assert curves.result() is explorer.insertion_deletion(key, latent)
    assert [one.result() for one in keys] == [key_of(one) for one in data]
    again = [explorer.look(key_of(one), None, n=3) for one in data]
    assert looked == again


@pytest.mark.parametrize(
    "key", ["/etc/passwd", "../../etc/passwd", "", "0" * 16, "file:///etc/passwd", "x" * 10_000]
)
def test_no_key_names_a_file(explorer: Explorer, key: str) -> None:
    with pytest.raises(UserError, match="there is no image") as found:
        explorer.picture(key)
    assert len(str(found.value)) < 200
    with pytest.raises(UserError):
        explorer.look(key, None)


def test_the_longest_unused_goes_first_by_number_and_by_bytes() -> None:
    kept: Recent[str] = Recent(most=3, most_bytes=10)
    for name in "abc":
        kept.put(name, name, 2)
    assert kept.get("a") == "a"
    kept.put("d", "d", 2)
    assert kept.get("b") is None and kept.get("a") == "a" and len(kept) == 3
    kept.put("e", "e", 7)
    assert kept.n_bytes <= 10 and kept.get("e") == "e"
    kept.put("f", "f", 50)
    assert len(kept) == 1 and kept.get("f") == "f" and kept.n_bytes == 50
    kept.put("f", "g", 1)
    assert kept.n_bytes == 1 and kept.get("f") == "g"
