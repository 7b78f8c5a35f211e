"""Contract of a family of models: the request it receives and the parts it returns."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from saev.backbones.base import Trunk
from saev.backbones.transform import ImageTransform
from saev.errors import UserError

PREPROCESSING = ("mean", "std", "interpolation", "resize", "crop_pct")
"""Arguments that replace what was discovered about pictures."""


@dataclass(frozen=True)
class Request:
    """The arguments of ``load_backbone`` that a family needs, checked and in plain types."""

    name: str
    weights: str
    pretrained_tag: str | None = None
    image_size: tuple[int, int] | None = None
    model_config: str | None = None
    model_kwargs: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    normalised: bool = False
    """The user gave mean and std."""


class Parts(NamedTuple):
    """A built and filled model and all that was discovered about it."""

    trunk: Trunk
    transform: ImageTransform
    weights: dict[str, str]
    """kind ("pretrained", "file", "random", "object"), source, sha256."""
    class_names: list[str] | None = None
    class_ids: list[str] | None = None
    text_tower: Callable[[], Any] | None = None


@contextmanager
def seeded(seed: int):
    """Initialisation from ``seed`` that leaves the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def check_image_size(image_size: tuple[int, int], patch_size: tuple[int, int], name: str) -> None:
    """Raises UserError when the patches do not tile the image."""
    if any(side % patch or side <= 0 for side, patch in zip(image_size, patch_size, strict=True)):
        raise UserError(
            f"image_size={list(image_size)} is not a multiple of the patch size "
            f"{list(patch_size)} of {name}."
        )
