"""A user's own timm or open_clip model object as a backbone.

No name rebuilds such a model, so whoever opens a dictionary that was trained on it gives the object
again, and the SHA-256 of its tensors says whether it is still the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from saev.backbones.base import Backbone, Trunk
from saev.backbones.family import PREPROCESSING
from saev.backbones.open_clip_family import vision_trunk
from saev.backbones.timm_family import imagenet_classes, timm_transform
from saev.backbones.timm_trunk import NEEDED, TimmTrunk
from saev.backbones.transform import ImageTransform
from saev.backbones.weights import state_dict_sha256
from saev.errors import UserError

OBJECT = "object"


def wrap_model(
    model: nn.Module,
    name: str | None,
    layer: int,
    *,
    transform: Any = None,
    image_size: tuple[int, int] | None = None,
    class_names: list[str] | None = None,
    **options: Any,
) -> Backbone:
    """The arguments that make sense for a model object are those of ``load_backbone``.

    Raises:
        UserError: no vision transformer; preprocessing that nothing says or that cannot be read;
            an argument for models by name.
    """
    family, body = _family_and_body(model)
    config: dict[str, Any] = getattr(body, "pretrained_cfg", None) or {}
    name = str(name or config.get("architecture") or type(body).__name__)
    overrides = {key: options.pop(key) for key in list(options) if key in PREPROCESSING}
    if options:
        raise UserError(f"{next(iter(options))} goes with the name of a model, not with an object")
    body = deepcopy(body)
    trunk: Trunk = TimmTrunk(body, name) if family == "timm" else vision_trunk(body, name)
    if image_size is not None and image_size != trunk.image_size:
        raise UserError(
            f"image_size={list(image_size)}: this model object takes {list(trunk.image_size)}; "
            "build it for the size you want"
        )
    if transform is not None:
        found = read_transform(transform, trunk.image_size).with_overrides(**overrides)
    else:
        found = _discovered(trunk, body, overrides, name).with_overrides(**overrides)
    class_ids = None
    if class_names is None and isinstance(trunk, TimmTrunk) and _has_published_classes(body):
        class_names, class_ids = imagenet_classes(trunk)
    _check_classes(class_names, trunk, body)
    return Backbone(
        trunk,
        family=family,
        name=name,
        layer=layer,
        transform=found,
        weights={
            "kind": OBJECT,
            "source": f"a {type(model).__name__} object",
            "sha256": state_dict_sha256(body),
        },
        spec={
            "family": family, "name": name, "weights": OBJECT, "layer": layer,
            "transform": found.spec(),
        },
        class_names=class_names,
        class_ids=class_ids,
    )  # fmt: skip


def _family_and_body(model: Any) -> tuple[str, nn.Module]:
    """The family, and the part of the model that sees images."""
    if hasattr(model, "visual"):  # open_clip's CLIP, CustomTextCLIP, CoCa
        return "open_clip", model.visual
    if hasattr(model, "conv1") and hasattr(model, "transformer"):  # its vision tower alone
        return "open_clip", model
    if hasattr(model, "trunk") and hasattr(model, "head"):
        return "open_clip", model
    if all(hasattr(model, attribute) for attribute in NEEDED):
        return "timm", model
    raise UserError(
        f"a {type(model).__name__} is neither a vision transformer of timm nor a model of open_clip; "
        "give one of these, or the name of a backbone"
    )


def _discovered(trunk: Trunk, body: Any, given: dict[str, Any], name: str) -> ImageTransform:
    if isinstance(trunk, TimmTrunk) and "mean" in (getattr(body, "pretrained_cfg", None) or {}):
        return timm_transform(trunk)
    config: dict[str, Any] = getattr(body, "preprocess_cfg", None) or {}  # open_clip.create_model
    known = given | config
    if not {"mean", "std"} <= known.keys():
        raise UserError(
            f"nothing says how pictures are prepared for this {name}; give transform=…, the "
            "preprocessing that came with it, or mean=… and std=…"
        )
    return ImageTransform(
        image_size=trunk.image_size,
        mean=tuple(known["mean"]),
        std=tuple(known["std"]),
        interpolation=config.get("interpolation", "bicubic"),
        resize=config.get("resize_mode", "shortest"),
    )


def _has_published_classes(body: Any) -> bool:
    config = getattr(body, "pretrained_cfg", None) or {}
    return config.get("num_classes") == getattr(body, "num_classes", None)


def _check_classes(class_names: Sequence[str] | None, trunk: Trunk, body: Any) -> None:
    if class_names is None:
        return
    n_classes = body.num_classes if trunk.has_classifier else 0
    if len(class_names) != n_classes:
        raise UserError(
            f"class_names holds {len(class_names)} names and the model's classifier has {n_classes} "
            "columns; give one name for each"
        )


def read_transform(transform: Any, image_size: tuple[int, int]) -> ImageTransform:
    """An ``ImageTransform``, its spec, or torchvision steps as open_clip and timm compose them.

    Steps are translated, and the translation is tried on a picture.

    Raises:
        UserError: steps that cannot be read, or a result of another size.
    """
    if isinstance(transform, Mapping):
        fields: dict[str, Any] = dict(transform)
        for key in ("image_size", "mean", "std"):
            fields[key] = tuple(fields[key])
        transform = ImageTransform(**fields)
    if not isinstance(transform, ImageTransform):
        translated = _translate(getattr(transform, "transforms", ()))
        if translated is None or not _agree(transform, translated):
            raise UserError(
                "transform holds other steps than resize, centre crop, to tensor and normalise, "
                "which cannot be written down with a dictionary; give mean=…, std=…, resize=… and "
                "crop_pct=… instead"
            )
        transform = translated
    if transform.image_size != image_size:
        raise UserError(
            f"transform makes pictures of {list(transform.image_size)} pixels and the model takes "
            f"{list(image_size)}"
        )
    return transform


def _translate(steps: Sequence[Any]) -> ImageTransform | None:
    named = {type(step).__name__: step for step in steps}
    resize, normalize = named.get("Resize"), named.get("Normalize")
    if resize is None or normalize is None:
        return None
    sides = [resize.size] if isinstance(resize.size, int) else list(resize.size)
    crop = named.get("CenterCrop")
    size = (
        sides * 2 if crop is None else [crop.size] * 2 if isinstance(crop.size, int) else crop.size
    )
    height, width = int(size[0]), int(size[1])
    return ImageTransform(
        image_size=(height, width),
        mean=tuple(float(v) for v in normalize.mean),
        std=tuple(float(v) for v in normalize.std),
        interpolation=getattr(resize.interpolation, "value", str(resize.interpolation)),
        resize="squash" if len(sides) == 2 else "shortest",
        crop_pct=_crop_pct(min(height, width), min(sides)),
    )


def _crop_pct(cropped: int, resized: int) -> float:
    """The share that leads from the one to the other through ``ImageTransform``'s floor."""
    share = cropped / resized
    return share if math.floor(cropped / share) == resized else cropped / (resized + 0.5)


def _agree(steps: Any, translated: ImageTransform) -> bool:
    pixels = np.random.default_rng(0).integers(0, 256, (233, 317, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    expected = steps(picture)
    if not isinstance(expected, torch.Tensor):
        return False
    found = translated(picture)
    return found.shape == expected.shape and torch.allclose(found, expected, atol=1e-4)
