"""Pixels from files: conversions, and every kind of damage refused by path."""

import pickle
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from datamodules.images.base import BrokenImage
from datamodules.images.decode import decode_image, read_mask
from saev.errors import UserError


def encoded(image: Image.Image, format: str, **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def noise(mode_channels: int = 3, size: int = 48) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (size, size, mode_channels), dtype=np.uint8)


def pixel(content: bytes) -> tuple[int, ...]:
    image = decode_image(content, "x.png")
    assert image.mode == "RGB"
    value = image.getpixel((0, 0))
    assert isinstance(value, tuple)
    return value


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_round_trip(format):
    pixels = noise()
    options = {"lossless": True} if format == "WEBP" else {}
    content = encoded(Image.fromarray(pixels), format, **options)
    assert np.array_equal(np.asarray(decode_image(content, "x")), pixels)


def test_modes_become_rgb():
    grey = Image.new("L", (2, 2), 7)
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 9, 8, 7])
    assert pixel(encoded(grey, "PNG")) == (7, 7, 7)
    assert pixel(encoded(Image.new("1", (2, 2), 1), "PNG")) == (255, 255, 255)
    assert pixel(encoded(palette, "PNG")) == (9, 8, 7)
    assert pixel(encoded(Image.new("CMYK", (2, 2), (255, 0, 0, 0)), "TIFF")) == (0, 255, 255)


def test_alpha_lies_over_white():
    assert pixel(encoded(Image.new("RGBA", (2, 2), (10, 20, 30, 0)), "PNG")) == (255, 255, 255)
    assert pixel(encoded(Image.new("RGBA", (2, 2), (10, 20, 30, 255)), "PNG")) == (10, 20, 30)
    assert pixel(encoded(Image.new("LA", (2, 2), (10, 0)), "PNG")) == (255, 255, 255)
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([1, 2, 3])
    assert pixel(encoded(palette, "PNG", transparency=0)) == (255, 255, 255)


def test_sixteen_bit_grey_keeps_its_upper_byte():
    deep = Image.fromarray(np.full((2, 2), 0x80FF, np.uint16))
    assert pixel(encoded(deep, "PNG")) == (0x80, 0x80, 0x80)


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned; the picture must be rotated by 90° to the right
    content = encoded(Image.new("RGB", (4, 2), "red"), "JPEG", exif=exif)
    assert decode_image(content, "x").size == (2, 4)


def test_damaged_exif_leaves_the_picture():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = bytearray(encoded(Image.new("RGB", (4, 2), "red"), "JPEG", exif=exif))
    start = content.index(b"Exif\0\0") + 6
    content[start : start + 8] = b"\xff" * 8
    assert decode_image(bytes(content), "x").size == (4, 2)


def test_truncated_files_are_refused(tmp_path):
    for format in ("JPEG", "PNG", "BMP", "TIFF", "WEBP"):
        whole = encoded(Image.fromarray(noise()), format)
        for share in (0.1, 0.5, 0.95):
            path = tmp_path / f"cut.{format.lower()}"
            path.write_bytes(whole[: int(share * len(whole))])
            with pytest.raises(BrokenImage, match="cut") as caught:
                decode_image(path, str(path))
            assert str(path) in str(caught.value)


def test_the_truncation_check_cannot_be_switched_off(monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)
    whole = encoded(Image.fromarray(noise()), "JPEG")
    with pytest.raises(BrokenImage, match="truncated"):
        decode_image(whole[: len(whole) // 2], "x.jpg")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"this is a text", "not an image"),
        (b"", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "not an image"),
    ],
)
def test_other_content_is_refused(tmp_path, content, reason):
    path = tmp_path / "picture.jpg"
    path.write_bytes(content)
    with pytest.raises(UserError, match=reason):
        decode_image(path, str(path))


def test_missing_file_and_float_pixels_are_refused(tmp_path):
    with pytest.raises(BrokenImage, match="no such file"):
        decode_image(tmp_path / "none.png", "none.png")
    with pytest.raises(BrokenImage, match="32-bit"):
        decode_image(encoded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"), "x.tif")


def test_decompression_bombs_are_refused(monkeypatch):
    content = encoded(Image.new("L", (40, 40)), "PNG")
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 1000)  # 1,600 warns, twice that raises
    with pytest.raises(BrokenImage, match="1,000 pixels"):
        decode_image(content, "x.png")
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 700)
    with pytest.raises(BrokenImage, match="700 pixels"):
        decode_image(content, "x.png")


def test_the_error_survives_pickling():
    error = pickle.loads(pickle.dumps(BrokenImage("a.jpg", "cut short")))
    assert (error.where, error.reason) == ("a.jpg", "cut short")
    assert "a.jpg" in str(error) and "on_error=skip" in str(error)


def test_masks_of_every_single_channel_mode(tmp_path):
    values = np.array([[0, 3], [255, 1]], np.uint8)
    palette = Image.fromarray(values)
    palette.putpalette(list(range(256)) * 3)
    deep = Image.fromarray(values.astype(np.uint16))
    for name, image in (("l", Image.fromarray(values)), ("p", palette), ("i16", deep)):
        image.save(tmp_path / f"{name}.png")
        mask = read_mask(tmp_path / f"{name}.png", (2, 2))
        assert mask.dtype == np.uint8
        assert np.array_equal(mask, values)


def test_bad_masks_are_refused(tmp_path):
    path = tmp_path / "mask.png"
    with pytest.raises(UserError, match="missing"):
        read_mask(path, (2, 2))
    path.write_text("no png")
    with pytest.raises(UserError, match="not a readable PNG"):
        read_mask(path, (2, 2))
    Image.new("RGB", (2, 2)).save(path)
    with pytest.raises(UserError, match="single channel"):
        read_mask(path, (2, 2))
    Image.fromarray(np.full((2, 2), 300, np.uint16)).save(path)
    with pytest.raises(UserError, match="300"):
        read_mask(path, (2, 2))
    Image.new("L", (3, 2)).save(path)
    with pytest.raises(UserError, match="3 × 2 and its image 2 × 2"):
        read_mask(path, (2, 2))


@pytest.mark.parametrize("size", [(10_001, 1), (2, 20_001)])
def test_rows_of_pixels_are_no_picture(size):
    file = BytesIO()
    Image.new("L", size).save(file, "PNG")
    with pytest.raises(BrokenImage, match=r"it measures .* pixels"):
        decode_image(file.getvalue(), "thin.png")
