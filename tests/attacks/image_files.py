"""Odd images and folders of images, each written by a function of its own name."""

import os
import socket
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from PIL import __version__ as pillow
from PIL.PngImagePlugin import PngInfo

RECORDED, REFUSED, LEFT_OUT, EITHER = "recorded", "refused", "left out", "either"
"""What has to come of a folder: the odd image is recorded, or refused by name (and left out where
``images.on_error=skip``); left out from the start, as no image; or one of the first two."""

Write = Callable[[Path], object]
RAW_YCBCR = RECORDED if int(pillow.split(".")[0]) >= 13 else REFUSED
"""Pillow 12 takes uncompressed YCbCr for four bytes a pixel and calls its own file truncated."""
GOOD = 4
"""Good images beside the odd one."""


def picture(size: tuple[int, int] = (40, 32), mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(size[0]).integers(0, 255, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(noise).convert(mode)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def good_folder(root: Path) -> Path:
    """Two classes of two images."""
    for number in range(GOOD):
        path = root / ("cats" if number % 2 else "dogs") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture((40 + number, 32)).save(path)
    return root


def saved(name: str, image: Image.Image, kind: str, **options: object) -> Write:
    return lambda folder: (folder / name).write_bytes(encoded(image, kind, **options))


def raw(name: str, content: bytes) -> Write:
    return lambda folder: (folder / name).write_bytes(content)


def named(name: str) -> Write:
    def write(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture().save(folder / name, "PNG")

    return write


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(
        ">I", zlib.crc32(kind + content)
    )  # fmt: skip


def png(width: int, height: int, content: bytes, *more: bytes, depth: int = 8) -> bytes:
    """A PNG that says it has this size, whatever its content."""
    head = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    parts = [
        chunk(b"IHDR", head),
        *more,
        chunk(b"IDAT", zlib.compress(content)),
        chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def several(kind: str) -> bytes:
    frames = [picture((40, 32 + n)).resize((40, 32)) for n in range(3)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def link(name: str, target: str) -> Write:
    return lambda folder: (folder / name).symlink_to(target)


def as_socket(folder: Path) -> None:
    here = Path.cwd()
    os.chdir(folder)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("x.jpg")
    os.chdir(here)


def with_text_bomb() -> bytes:
    bomb = zlib.compress(b"\0" * 200_000_000, 9)
    return png(8, 8, b"\0" * (8 * 25), chunk(b"zTXt", b"a\0\0" + bomb))


def with_long_text() -> bytes:
    info = PngInfo()
    info.add_text("comment", "x" * 500_000)
    return encoded(picture(), "PNG", pnginfo=info)


JPEG, PNG, TIFF = (encoded(picture((64, 48)), kind) for kind in ("JPEG", "PNG", "TIFF"))
LOOPED_TIFF = TIFF[:4] + struct.pack("<I", 8) + struct.pack("<HI", 0, 8)
RGBA, GREY16 = (
    picture(mode="RGBA"),
    Image.fromarray(np.arange(1280, dtype=np.uint16).reshape(32, 40)),
)

ONE_IMAGE: dict[str, tuple[str, Write]] = {
    "one_pixel": (RECORDED, saved("x.png", picture((1, 1)), "PNG")),
    "three_pixels": (RECORDED, saved("x.png", picture((3, 1)), "PNG")),
    "thin": (EITHER, saved("x.png", picture((2000, 1)), "PNG")),
    "tall": (EITHER, saved("x.png", picture((1, 2000)), "PNG")),
    "very_thin": (EITHER, raw("x.png", png(20_000, 1, b"\0" * 60_001))),
    "grey": (RECORDED, saved("x.png", picture(mode="L"), "PNG")),
    "grey_alpha": (RECORDED, saved("x.png", picture(mode="LA"), "PNG")),
    "one_bit": (RECORDED, saved("x.png", picture(mode="1"), "PNG")),
    "palette": (RECORDED, saved("x.png", picture(mode="P"), "PNG")),
    "palette_transparent": (RECORDED, saved("x.png", picture(mode="P"), "PNG", transparency=3)),
    "rgb_transparent": (RECORDED, saved("x.png", picture(), "PNG", transparency=(1, 2, 3))),
    "rgba": (RECORDED, saved("x.png", RGBA, "PNG")),
    "sixteen_bit": (RECORDED, saved("x.png", GREY16, "PNG")),
    "sixteen_bit_tiff": (RECORDED, saved("x.tif", GREY16, "TIFF")),
    "thirty_two_bit": (REFUSED, saved("x.tif", picture(mode="I"), "TIFF")),
    "float": (REFUSED, saved("x.tif", picture(mode="F"), "TIFF")),
    "cmyk": (RECORDED, saved("x.jpg", picture(mode="CMYK"), "JPEG")),
    "cmyk_tiff": (RECORDED, saved("x.tiff", picture(mode="CMYK"), "TIFF")),
    "ycbcr": (RAW_YCBCR, saved("x.tif", picture(mode="YCbCr"), "TIFF")),
    "ycbcr_jpeg": (RECORDED, saved("x.tif", picture(mode="YCbCr"), "TIFF", compression="jpeg")),
    "lab": (EITHER, saved("x.tif", picture(mode="LAB"), "TIFF")),
    "progressive": (RECORDED, saved("x.jpg", picture(), "JPEG", progressive=True)),
    "grey_jpeg": (RECORDED, saved("x.jpg", picture(mode="L"), "JPEG")),
    "lzw": (RECORDED, saved("x.tif", picture(), "TIFF", compression="tiff_lzw")),
    "deflate": (RECORDED, saved("x.tif", picture(), "TIFF", compression="tiff_adobe_deflate")),
    "pages": (RECORDED, raw("x.tif", several("TIFF"))),
    "lossless_webp": (RECORDED, saved("x.webp", picture(), "WEBP", lossless=True)),
    "webp_alpha": (RECORDED, saved("x.webp", RGBA, "WEBP")),
    "animated_webp": (RECORDED, raw("x.webp", several("WEBP"))),
    "animated_png": (RECORDED, raw("x.png", several("PNG"))),
    "animated_gif": (RECORDED, raw("x.png", several("GIF"))),
    "bitmap": (RECORDED, saved("x.bmp", picture(), "BMP")),
    "gif_named_jpg": (RECORDED, saved("x.jpg", picture(mode="P"), "GIF")),
    "png_named_jpeg": (RECORDED, raw("x.jpeg", PNG)),
    "jpeg_named_png": (RECORDED, raw("x.png", JPEG)),
    "webp_named_bmp": (RECORDED, saved("x.bmp", picture(), "WEBP")),
    "long_comment": (RECORDED, saved("x.jpg", picture(), "JPEG", comment=b"x" * 60_000)),
    "long_text": (EITHER, raw("x.png", with_long_text())),
    "garbage_appended": (RECORDED, raw("x.jpg", JPEG + b"\0garbage" * 100)),
    "two_jpegs_in_one": (RECORDED, raw("x.jpg", JPEG + JPEG)),
    "broken_exif": (RECORDED, saved("x.jpg", picture(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")),
    "broken_profile": (RECORDED, saved("x.jpg", picture(), "JPEG", icc_profile=b"nonsense" * 9)),
    **{
        f"turned_{n}": (RECORDED, saved("x.jpg", picture(), "JPEG", exif=exif(n)))
        for n in (0, 2, 3, 4, 5, 6, 7, 8, 99)
    },
    "empty": (REFUSED, raw("x.jpg", b"")),
    "one_byte": (REFUSED, raw("x.png", b"\x89")),
    "text": (REFUSED, raw("x.jpg", b"not a picture")),
    "html": (REFUSED, raw("x.jpg", b"<html><body>404 Not Found</body></html>")),
    "svg": (REFUSED, raw("x.png", b'<svg xmlns="http://www.w3.org/2000/svg"><rect/></svg>')),
    "eps": (REFUSED, saved("x.jpg", picture(), "EPS")),
    "pdf": (REFUSED, saved("x.jpg", picture(), "PDF")),
    "icon": (REFUSED, saved("x.png", picture((32, 32)), "ICO")),
    "portable_pixmap": (REFUSED, saved("x.png", picture(), "PPM")),
    "targa": (REFUSED, saved("x.png", picture(), "TGA")),
    "zip": (REFUSED, raw("x.jpg", b"PK\x03\x04" + b"\0" * 100)),
    "pickle": (REFUSED, raw("x.jpg", b"\x80\x04cposix\nsystem\n\x8c\x05false\x85R.")),
    "half_a_jpeg": (REFUSED, raw("x.jpg", JPEG[: len(JPEG) // 2])),
    "half_a_png": (REFUSED, raw("x.png", PNG[: len(PNG) // 2])),
    "half_a_tiff": (REFUSED, raw("x.tif", TIFF[: len(TIFF) // 2])),
    "half_a_webp": (REFUSED, raw("x.webp", encoded(picture(), "WEBP")[:60])),
    "half_a_gif": (REFUSED, raw("x.jpg", encoded(picture((200, 200), "P"), "GIF")[:5000])),
    "jpeg_header": (REFUSED, raw("x.jpg", JPEG[:20])),
    "png_header": (REFUSED, raw("x.png", PNG[:33])),
    "wrong_checksum": (REFUSED, raw("x.png", PNG[:45] + bytes([PNG[45] ^ 1]) + PNG[46:])),
    "no_pixels": (REFUSED, raw("x.png", png(8, 8, b""))),
    "too_few_pixels": (REFUSED, raw("x.png", png(80, 80, b"\0" * 100))),
    "too_many_pixels": (EITHER, raw("x.png", png(8, 8, b"\0" * 10_000_000))),
    "width_zero": (REFUSED, raw("x.png", png(0, 8, b""))),
    "bomb": (REFUSED, raw("x.png", png(30_000, 30_000, b"\0" * 1000))),
    "absurd_size": (REFUSED, raw("x.png", png(2**31 - 1, 2**31 - 1, b""))),
    "bad_depth": (REFUSED, raw("x.png", png(8, 8, b"\0" * 200, depth=3))),
    "text_bomb": (EITHER, raw("x.png", with_text_bomb())),
    "looped_tiff": (REFUSED, raw("x.tif", LOOPED_TIFF)),
    "zeros": (REFUSED, raw("x.jpg", b"\0" * 1_000_000)),
    "noise": (REFUSED, raw("x.jpg", np.random.default_rng(0).bytes(100_000))),
    "dead_link": (REFUSED, link("x.jpg", "nowhere.jpg")),
    "link_to_itself": (REFUSED, link("x.jpg", "x.jpg")),
    "link_to_an_image": (RECORDED, link("x.jpg", "cats/1.png")),
    "link_to_a_folder_above": (LEFT_OUT, link("more", "..")),
    "link_to_zeros": (EITHER, link("x.jpg", "/dev/zero")),
    "link_to_null": (EITHER, link("x.jpg", "/dev/null")),
    "pipe": (EITHER, lambda folder: os.mkfifo(folder / "x.jpg")),
    "socket": (EITHER, as_socket),
    "folder_named_jpg": (LEFT_OUT, lambda folder: (folder / "x.jpg").mkdir()),
    "hidden": (LEFT_OUT, raw(".x.jpg", JPEG)),
    "hidden_folder": (LEFT_OUT, named(".git/x.jpg")),
    "text_file": (LEFT_OUT, raw("notes.txt", b"notes")),
    "no_suffix": (LEFT_OUT, raw("x", JPEG)),
    "capital_suffix": (RECORDED, raw("X.JPG", JPEG)),
    "two_suffixes": (RECORDED, raw("x.tar.png", PNG)),
    "space": (RECORDED, named("a class/a picture.png")),
    "unicode": (RECORDED, named("猫/ünï €.png")),
    "emoji": (RECORDED, named("🐈/🐈.png")),
    "newline": (RECORDED, named("a\nclass/b\n.png")),
    "quotes": (RECORDED, named("a'class/b\".png")),
    "shell": (RECORDED, named("$(touch ran)/;rm -rf x.png")),
    "interpolation": (RECORDED, named("${oc.env:HOME}/${x}.png")),
    "script": (RECORDED, named("<img src=x onerror=alert(1)>.png")),
    "percent": (RECORDED, named("100%/%s %d.png")),
    "backslash": (RECORDED, named("a\\b/c\\..png")),
    "long_name": (RECORDED, named("a" * 200 + "/" + "b" * 240 + ".png")),
    "deep": (RECORDED, named("d/" * 60 + "x.png")),
    "not_utf8": (EITHER, lambda folder: picture().save(os.fsdecode(os.fsencode(folder) + b"/\xff.png"))),
    "dots": (RECORDED, named("a..b/c..png")),
    "one_letter_case": (RECORDED, named("Cats/1.png")),
}  # fmt: skip
"""Name → what has to come of it, and how it is written beside good images."""


def moved(*pairs: tuple[str, str]) -> Write:
    """Renames classes of the good folder."""

    def write(root: Path) -> None:
        for old, new in pairs:
            (root / new).parent.mkdir(parents=True, exist_ok=True)
            (root / old).rename(root / new)

    return write


def emptied(root: Path) -> None:
    for path in root.rglob("*.png"):
        path.unlink()


FOLDERS: dict[str, tuple[str, Write, str]] = {
    "plain": (RECORDED, lambda root: None, "[{}]"),
    "no_list": (RECORDED, lambda root: None, "{}"),
    "no_images": (REFUSED, emptied, "[{}]"),
    "only_hidden": (REFUSED, moved(("cats", ".cats"), ("dogs", ".dogs")), "[{}]"),
    "missing": (REFUSED, lambda root: None, "[{}/nowhere]"),
    "a_file": (REFUSED, lambda root: None, "[{}/cats/1.png]"),
    "twice": (REFUSED, lambda root: None, "[{0},{0}]"),
    "one_in_another": (RECORDED, lambda root: None, "[{0},{0}/cats]"),
    "one_class": (RECORDED, lambda root: None, "[{}/cats]"),
    "null_device": (REFUSED, lambda root: None, "[/dev/null]"),
    "link": (RECORDED, lambda root: (root.parent / "link").symlink_to(root), "[{}/../link]"),
    "link_to_itself": (REFUSED, lambda root: (root / "loop").symlink_to(root / "loop"), "[{}/loop]"),
    "splits": (RECORDED, moved(("cats", "train/cats"), ("dogs", "val/dogs")), "[{}]"),
    "validation": (RECORDED, moved(("cats", "train/cats"), ("dogs", "validation/dogs")), "[{}]"),
    "only_train": (RECORDED, moved(("cats", "train/cats"), ("dogs", "train/dogs")), "[{}]"),
    "only_test": (REFUSED, moved(("cats", "test/cats"), ("dogs", "test/dogs")), "[{}]"),
    "beside_splits": (REFUSED, moved(("cats", "train/cats")), "[{}]"),
    "empty_split": (RECORDED, lambda root: (
        moved(("cats", "train/cats"), ("dogs", "train/dogs"))(root), (root / "val").mkdir()
    ), "[{}]"),
    "images_and_masks": (RECORDED, moved(("cats", "images/cats"), ("dogs", "masks/dogs")), "[{}]"),
    "two_of_one_name": (REFUSED, moved(("cats", "a/x/cats"), ("dogs", "b/x/dogs")), "[{0}/a/x,{0}/b/x]"),
}  # fmt: skip
"""Name → what has to come of it, what is done to the good folder, and ``images.roots``."""

ROOT_NAMES = (
    "a b", "ünï€", "a,b", "a=b", "[a]", "{a}", "$a", "a%b", "#a", "~a", "a:b", "(a)", "a*b", "a;b", "a&b",
    "a\nb", "a'b", "x" * 240, "-a", "+a", "a.b", "true", "null", "1e5",
)  # fmt: skip


def quoted(path: Path) -> str:
    """As Hydra takes any path."""
    text = str(path).replace("\\", "\\\\").replace("'", "\\'").replace("${", "\\${")
    return f"['{text}']"
