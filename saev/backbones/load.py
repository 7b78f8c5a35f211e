"""``load_backbone``: from a name to a backbone, for code, YAML and manifests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from saev.backbones.base import Backbone
from saev.backbones.family import Request
from saev.errors import UserError

FAMILIES = ("timm", "open_clip")


def load_backbone(
    family: str,
    name: str,
    weights: str = "pretrained",
    layer: int = -2,
    *,
    pretrained_tag: str | None = None,
    image_size: int | Sequence[int] | None = None,
    model_config: str | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    interpolation: str | None = None,
    resize: str | None = None,
    crop_pct: float | None = None,
    seed: int = 0,
) -> Backbone:
    """A frozen backbone; everything not given is discovered from the model.

    Args:
        family: "timm" or "open_clip".
        name: the family's name of the architecture (timm: a tag may follow the dot; "micro" is the
            small ViT that comes with this package).
        weights: "pretrained" (downloaded), the path of a file or folder, or "random".
        layer: block to tap, from 0; negative counts from the end.
        pretrained_tag: which of the published weights; also pins QuickGELU and normalisation when
            ``weights`` is a file. "hf-hub:owner/model" for open_clip models outside its registry.
        image_size: pixels, one side or (height, width); the position embedding is interpolated.
        model_config: JSON of an open_clip architecture that open_clip itself does not know.
        model_kwargs: for the model's constructor.
        mean, std, interpolation, resize, crop_pct: replace the discovered preprocessing;
            ``resize="squash"`` keeps the whole picture (see ImageTransform).
        seed: of random weights.

    Raises:
        UserError: no such family, model, tag, file or block; weights of another architecture or
            activation function; unreadable or unsafe weights; weights that cannot be downloaded.
    """
    if family not in FAMILIES:
        raise UserError(f"backbone.family={family!r} is not one of {', '.join(FAMILIES)}.")
    size = _pair(image_size)
    request = Request(
        name=name,
        weights=str(weights),
        pretrained_tag=pretrained_tag,
        image_size=size,
        model_config=model_config,
        model_kwargs=_plain(model_kwargs or {}),
        seed=seed,
        normalised=mean is not None and std is not None,
    )
    if family == "timm":
        from saev.backbones import timm_family as builder
    else:
        from saev.backbones import open_clip_family as builder
    parts = builder.build(request)
    overrides = {
        "mean": _plain(mean),
        "std": _plain(std),
        "interpolation": interpolation,
        "resize": resize,
        "crop_pct": crop_pct,
    }
    optional = {
        "pretrained_tag": pretrained_tag,
        "image_size": list(size) if size else None,
        "model_config": model_config,
        "model_kwargs": request.model_kwargs or None,
        **overrides,
    }
    return Backbone(
        parts.trunk,
        family=family,
        name=name,
        layer=layer,
        transform=parts.transform.with_overrides(**overrides),
        weights=parts.weights,
        spec={
            "family": family,
            "name": name,
            "weights": request.weights,
            "layer": layer,
            **{key: value for key, value in optional.items() if value is not None},
            "seed": seed,
        },
        class_names=parts.class_names,
        class_ids=parts.class_ids,
        text_tower=parts.text_tower,
    )


def _pair(image_size: int | Sequence[int] | None) -> tuple[int, int] | None:
    if image_size is None:
        return None
    sides = [image_size] * 2 if isinstance(image_size, int) else list(image_size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise UserError(f"image_size={image_size} must be one or two positive numbers of pixels.")
    return sides[0], sides[1]


def _plain(value: Any) -> Any:
    """Lists and dicts in place of Hydra's, so that the spec can be written as JSON."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value
