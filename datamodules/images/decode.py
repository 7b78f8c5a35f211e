"""Image decoding: bytes to an upright RGB image or a mask; a broken file is refused by name."""

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from datamodules.images.base import BrokenImage
from datamodules.patches import IGNORE
from saev.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""What content may be, whatever the suffix says: data sets hold PNG and GIF files named .jpg.
Left out are formats that start other programs (EPS)."""

LARGEST_ASPECT = 10_000
"""Of one side to the other: beyond it, rows of pixels rather than a picture."""


def decode_image(content: Path | bytes, where: str) -> Image.Image:
    """The picture in mode RGB, turned upright by its EXIF tag, alpha laid over white.

    16-bit grey becomes 8-bit by its upper byte. Raises `BrokenImage` with `where` for everything
    else: no image, no regular file, cut short, 32-bit pixels, sides beyond `LARGEST_ASPECT`, more
    pixels than Pillow's limit against decompression bombs.
    """
    if isinstance(content, Path) and content.exists() and not content.is_file():
        raise BrokenImage(where, "it is not a regular file")
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # another library may have switched the check off
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata; the pixels are what counts
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            file = BytesIO(content) if isinstance(content, bytes) else content
            with Image.open(file, formats=FORMATS) as image:
                if max(image.size) > LARGEST_ASPECT * min(image.size):
                    raise ValueError(f"it measures {image.width:,} × {image.height:,} pixels")
                image.load()
                return _to_rgb(_upright(image))
    except FileNotFoundError as error:
        raise BrokenImage(where, "there is no such file") from error
    except UnidentifiedImageError as error:
        raise BrokenImage(where, "its content is not an image") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        reason = f"it has more than the {Image.MAX_IMAGE_PIXELS or 0:,} pixels accepted"
        raise BrokenImage(where, reason) from error
    except MemoryError:
        raise
    except Exception as error:  # decoders fail in many ways on damaged bytes, all meaning the same
        reason = str(error).strip().rstrip(".") or type(error).__name__
        raise BrokenImage(where, reason) from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a damaged EXIF block says nothing about orientation; the pixels are whole
        return image.copy()


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("32-bit pixels have no defined white; convert it to 8 bits")
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return image.convert("RGB")


def read_mask(path: Path, size: tuple[int, int]) -> UInt8[np.ndarray, "h w"]:
    """Class per pixel of a single-channel or palette PNG, for an image of `size` (width, height).

    Raises `UserError` when the file is missing, broken, of another size, or a colour picture.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            mode, mask_size = image.mode, image.size
            values = np.asarray(image) if mask_size == size else np.empty((0, 0))
    except FileNotFoundError as error:
        raise UserError(
            f"the mask {path} is missing: every image needs one with its stem"
        ) from error
    except Exception as error:
        raise UserError(
            f"the mask {path} is not a readable PNG ({error}): write it again"
        ) from error
    if values.ndim != 2:
        raise UserError(
            f"the mask {path} has colour mode {mode}: store class numbers in a single channel"
        )
    if mask_size != size:
        raise UserError(
            f"the mask {path} measures {mask_size[0]} × {mask_size[1]} and its image "
            f"{size[0]} × {size[1]}: the two must agree pixel by pixel"
        )
    if values.max(initial=0) > IGNORE:
        raise UserError(f"the mask {path} holds the value {values.max()}: classes end at 254")
    return values.astype(np.uint8)
