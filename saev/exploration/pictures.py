"""Pictures of the explorer: uploads checked and kept in bounded memory, never on disk.

Suffixes: h w pixels.
"""

import hashlib
import re
from collections import OrderedDict
from collections.abc import Sequence
from io import BytesIO
from typing import Any, Generic, TypeVar

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from datamodules.images import BrokenImage, ImageItem, ImageSource
from datamodules.images.decode import FORMATS, decode_image
from saev.backbones import Backbone
from saev.backbones.transform import to_picture
from saev.errors import UserError

MOST_UPLOAD_BYTES = 20 * 2**20
MOST_PIXELS = 50_000_000
MOST_KEPT = 64
"""Uploads, and images whose stream at the tap is kept; the longest unused goes first."""
KEY = re.compile(r"[0-9a-f]{16}")
"""First half of a SHA-256: of an upload's bytes, or of an image's id."""

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """The last used entries, up to a number of them and of bytes."""

    def __init__(self, most: int = MOST_KEPT, most_bytes: int = 2**60) -> None:
        self.most, self.most_bytes = most, most_bytes
        self._kept: OrderedDict[Any, tuple[Value, int]] = OrderedDict()
        self.n_bytes = 0

    def get(self, key: Any) -> Value | None:
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def put(self, key: Any, value: Value, n_bytes: int = 0) -> Value:
        """Keeps it, and lets the longest unused go; the newest stays whatever its size."""
        if key in self._kept:
            self.n_bytes -= self._kept.pop(key)[1]
        self._kept[key] = (value, n_bytes)
        self.n_bytes += n_bytes
        while len(self._kept) > 1 and (
            len(self._kept) > self.most or self.n_bytes > self.most_bytes
        ):
            self.n_bytes -= self._kept.popitem(last=False)[1][1]
        return value

    def __len__(self) -> int:
        return len(self._kept)


def key_of(content: bytes | str) -> str:
    """Key of an upload's bytes or of an image's id."""
    data = content.encode() if isinstance(content, str) else content
    return hashlib.sha256(data).hexdigest()[:16]


class Pictures:
    """Images by key, as the model sees them: those of a source, and uploads."""

    def __init__(self, backbone: Backbone, source: ImageSource) -> None:
        self.backbone, self.source = backbone, source
        self.items: dict[str, ImageItem] = {}
        self.uploads: Recent[Float[Tensor, "3 h w"]] = Recent()

    def know(self, items: Sequence[ImageItem]) -> list[str]:
        """Makes images of the source known; their keys."""
        keys = [key_of(item.image_id) for item in items]
        self.items |= dict(zip(keys, items, strict=True))
        return keys

    def upload(self, data: bytes) -> str:
        """Checks and keeps an upload; its key.

        Raises:
            UserError: too large, no image, or a picture that cannot be decoded.
        """
        key = key_of(data)
        if self.uploads.get(key) is None:
            pixels = self.backbone.transform(decode_upload(data))
            self.uploads.put(key, pixels, pixels.nbytes)
        return key

    def pixels(self, key: str) -> Float[Tensor, "3 h w"]:
        """Of one image as the model takes it.

        Raises:
            UserError: no such image, or an upload that has gone.
        """
        found = self.uploads.get(key)
        if found is not None:
            return found
        item = self.items.get(key)
        if item is None:
            raise UserError(
                f"there is no image {key[:40]!r} here: choose one of the gallery, or upload it (again)"
            )
        return self.backbone.transform(self.source.load(item))

    def picture(self, key: str) -> Image.Image:
        """The same as people see it."""
        return Image.fromarray(to_picture(self.pixels(key), self.backbone.mean, self.backbone.std))

    def title(self, key: str) -> str:
        """The class of an image where it has one, else its name."""
        item = self.items.get(key)
        if item is None:
            return "uploaded"
        names = self.source.class_names
        return item.image_id if item.label is None or not names else names[item.label]


def decode_upload(data: bytes) -> Image.Image:
    """An upright RGB picture from the bytes of an upload, whatever its name says.

    EXIF rotation is applied, transparency laid over white, grey, CMYK and 16 bits become RGB.

    Raises:
        UserError: more than ``MOST_UPLOAD_BYTES`` or ``MOST_PIXELS``, or no whole image of a kind that
            is accepted.
    """
    if len(data) > MOST_UPLOAD_BYTES:
        raise UserError(
            f"the upload has {len(data) / 2**20:.0f} MB, and {MOST_UPLOAD_BYTES // 2**20} MB are "
            "accepted: make the picture smaller"
        )
    _check_pixels(data)
    try:
        return decode_image(data, "that was uploaded")
    except BrokenImage as error:
        raise UserError(
            f"the upload cannot be used ({error.reason}): give a {', '.join(FORMATS[:-1])} or "
            f"{FORMATS[-1]} file"
        ) from error


def _check_pixels(data: bytes) -> None:
    """By what its header claims, before anything is decoded; what is no image is left to the decoder."""
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        width, height = MOST_PIXELS, 2
    except Exception:  # whatever is wrong with it, the decoder says so
        return
    if width * height > MOST_PIXELS:
        raise UserError(
            f"the upload has more than the {MOST_PIXELS:,} pixels that are accepted: make the picture "
            "smaller"
        )
