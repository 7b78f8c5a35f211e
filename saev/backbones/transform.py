"""Preprocessing: images and masks to tensors, as the model was trained to see them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from saev.errors import UserError

RESIZE_MODES = ("shortest", "squash")
MOST_RESIZED = 64
"""Pixels of the whole picture resized, in pixels of the result: of a longer one only what the crop keeps
is computed, which is rounded otherwise between its two passes."""
INTERPOLATIONS = tuple(mode.name.lower() for mode in Image.Resampling)


@dataclass(frozen=True)
class ImageTransform:
    """Resize, centre-crop, scale to [0, 1], normalise.

    ``resize="shortest"`` brings the short side to ``image_size / crop_pct`` and cuts the centre
    out; ``"squash"`` brings both sides there without keeping the aspect ratio, so that with
    ``crop_pct = 1`` no pixel of the picture is lost (segmentation needs that).
    """

    image_size: tuple[int, int]
    """Height and width of the result in pixels."""
    mean: tuple[float, ...]
    """Per channel, of pixel values in [0, 1]."""
    std: tuple[float, ...]
    interpolation: str
    """One of Pillow's: "bicubic", "bilinear", "nearest", …"""
    resize: str = "shortest"
    crop_pct: float = 1.0
    """Share of the resized side that the crop keeps."""

    def __post_init__(self) -> None:
        if self.resize not in RESIZE_MODES:
            raise UserError(f"resize={self.resize!r} is not one of {', '.join(RESIZE_MODES)}.")
        if self.interpolation not in INTERPOLATIONS:
            raise UserError(
                f"interpolation={self.interpolation!r} is not one of {', '.join(INTERPOLATIONS)}."
            )
        if not 0 < self.crop_pct <= 1:
            raise UserError(f"crop_pct={self.crop_pct} must be greater than 0 and at most 1.")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3:
                raise UserError(f"{name}={list(values)} needs three numbers, one per channel.")
        if min(self.std) <= 0:
            raise UserError(f"std={list(self.std)} needs three numbers greater than 0.")

    def with_overrides(self, **overrides: Any) -> ImageTransform:
        """A copy with the overrides that are not None; squashing keeps the whole picture."""
        given = {key: value for key, value in overrides.items() if value is not None}
        for key in ("mean", "std"):
            if key in given:
                given[key] = tuple(float(v) for v in given[key])
        if "crop_pct" in given:
            given["crop_pct"] = float(given["crop_pct"])
        if given.get("resize") == "squash":
            given.setdefault("crop_pct", 1.0)
        return replace(self, **given)

    def __call__(self, image: Image.Image) -> Float[Tensor, "3 h w"]:
        image = self._geometry(image.convert("RGB"), Image.Resampling[self.interpolation.upper()])
        pixels = F.to_dtype(F.pil_to_tensor(image), torch.float32, scale=True)
        return F.normalize(pixels, mean=list(self.mean), std=list(self.std))

    def mask(self, mask: np.ndarray) -> Int64[Tensor, "h w"]:
        """A class-index mask (h, w) in the geometry of the picture, by nearest neighbour."""
        if mask.ndim != 2 or mask.dtype != np.uint8:
            raise ValueError(f"mask is {mask.dtype} {mask.shape}; it must be uint8 (h, w).")
        resized = self._geometry(Image.fromarray(mask), Image.Resampling.NEAREST)
        return torch.from_numpy(np.array(resized, dtype=np.int64))

    def spec(self) -> dict[str, Any]:
        """Everything that determines the result, JSON-able."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def _geometry(self, image: Image.Image, mode: Image.Resampling) -> Image.Image:
        scaled_h, scaled_w = (math.floor(side / self.crop_pct) for side in self.image_size)
        if self.resize == "shortest":
            # whole numbers and truncation, as torchvision has it: rounding would move pixels
            if scaled_h * image.width >= scaled_w * image.height:
                scaled_w = scaled_h * image.width // image.height
            else:
                scaled_h = scaled_w * image.height // image.width
        height, width = self.image_size
        top, left = round((scaled_h - height) / 2), round((scaled_w - width) / 2)
        if scaled_h * scaled_w > MOST_RESIZED * height * width:
            x, y = image.width / scaled_w, image.height / scaled_h
            box = (left * x, top * y, (left + width) * x, (top + height) * y)
            return image.resize((width, height), mode, box=box)
        image = image.resize((scaled_w, scaled_h), mode)
        return image.crop((left, top, left + width, top + height))


def to_picture(
    pixels: Float[Tensor, "3 h w"], mean: Sequence[float], std: Sequence[float]
) -> UInt8[np.ndarray, "h w 3"]:
    """A model's input as people see it: normalisation undone, values cut to [0, 255]."""
    mean_c, std_c = (torch.tensor(values)[:, None, None] for values in (mean, std))
    rgb = ((pixels * std_c + mean_c).clamp(0, 1) * 255).round().byte()
    return rgb.permute(1, 2, 0).numpy()
