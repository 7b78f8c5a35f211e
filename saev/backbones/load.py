"""``load_backbone``: a backbone from a name, a file of ``conf/backbone`` or a model object."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from saev.backbones.base import Backbone
from saev.backbones.family import PREPROCESSING, Request
from saev.defaults import CONF_DIR, defaults
from saev.errors import UserError

FAMILIES = ("timm", "open_clip")


def load_backbone(
    family: str | nn.Module,
    name: str | None = None,
    weights: str | None = None,
    layer: int | None = None,
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
    seed: int | None = None,
    transform: Any = None,
    class_names: Sequence[str] | None = None,
) -> Backbone:
    """A frozen backbone; everything not given is discovered from the model.

    ``load_backbone("micro")`` is the backbone of ``conf/backbone/micro.yaml``, and arguments replace
    what that file says. ``load_backbone(model)`` takes a timm or open_clip model object; a copy is
    frozen and the object stays as it is.

    Args:
        family: "timm" or "open_clip"; or a file of ``conf/backbone``, or a model object.
        name: the family's name of the architecture (timm: a tag may follow the dot; "micro" is the
            small ViT that comes with this package). With a model object: what to call it.
        weights: "pretrained" (the default; downloaded), the path of a file or folder, or "random".
        layer: block to tap, from 0; negative counts from the end (default −2).
        pretrained_tag: which of the published weights; also pins QuickGELU and normalisation when
            ``weights`` is a file. "hf-hub:owner/model" for open_clip models outside its registry.
        image_size: pixels, one side or (height, width); the position embedding is interpolated.
        model_config: JSON of an open_clip architecture that open_clip itself does not know.
        model_kwargs: for the model's constructor.
        mean, std, interpolation, resize, crop_pct: replace the discovered preprocessing;
            ``resize="squash"`` keeps the whole picture (see ImageTransform).
        seed: of random weights (default 0).
        transform: of a model object: the preprocessing that open_clip or timm made for it, an
            ImageTransform, or its spec.
        class_names: of a model object's classifier, in the order of its columns.

    Raises:
        UserError: no such file, family, model, tag or block; weights of another architecture or
            activation function; unreadable or unsafe weights; weights that cannot be downloaded; a
            model object that is no vision transformer, or whose preprocessing nothing says.
    """
    options = {
        "pretrained_tag": pretrained_tag,
        "image_size": _pair(image_size),
        "model_config": model_config,
        "model_kwargs": _plain(model_kwargs or {}) or None,
        "mean": _plain(mean),
        "std": _plain(std),
        "interpolation": interpolation,
        "resize": resize,
        "crop_pct": crop_pct,
    }
    given = {key: value for key, value in options.items() if value is not None}
    of_object = {"transform": transform, "class_names": _plain(class_names)}
    of_object = {key: value for key, value in of_object.items() if value is not None}
    of_name = {"weights": weights, "seed": seed}
    of_name = {key: value for key, value in of_name.items() if value is not None}
    if isinstance(family, nn.Module):
        from saev.backbones.own_model import wrap_model

        return wrap_model(
            family, name, -2 if layer is None else layer, **given, **of_name, **of_object
        )
    if of_name.get("weights") == "object":
        raise UserError(
            f"the backbone {name} was a model object in Python, which no name rebuilds: give that "
            "object as backbone"
        )
    if of_object:
        raise UserError(
            f"{next(iter(of_object))} goes with a model object; preprocessing of a model by name is "
            "set with mean, std, interpolation, resize and crop_pct"
        )
    if name is None:
        asked: dict[str, Any] = given | of_name | ({} if layer is None else {"layer": layer})
        return load_backbone(**(_from_conf(family) | asked))
    weights = "pretrained" if weights is None else str(weights)
    return _by_name(family, name, weights, layer, 0 if seed is None else seed, given)


def as_backbone(backbone: str | Backbone | nn.Module) -> Backbone:
    """A backbone from a name of ``conf/backbone``, a model object, or a backbone as it is."""
    return backbone if isinstance(backbone, Backbone) else load_backbone(backbone)


def _by_name(
    family: str, name: str, weights: str, layer: int | None, seed: int, given: dict[str, Any]
) -> Backbone:
    if family not in FAMILIES:
        raise UserError(f"backbone.family={family!r} is not one of {', '.join(FAMILIES)}.")
    overrides = {key: given[key] for key in PREPROCESSING if key in given}
    request = Request(
        name=name,
        weights=weights,
        seed=seed,
        normalised="mean" in given and "std" in given,
        **{key: value for key, value in given.items() if key not in overrides},
    )
    if family == "timm":
        from saev.backbones import timm_family as builder
    else:
        from saev.backbones import open_clip_family as builder
    parts = builder.build(request)
    layer = -2 if layer is None else layer
    plain = {key: list(v) if isinstance(v, tuple) else v for key, v in given.items()}
    return Backbone(
        parts.trunk,
        family=family,
        name=name,
        layer=layer,
        transform=parts.transform.with_overrides(**overrides),
        weights=parts.weights,
        spec={
            "family": family, "name": name, "weights": weights, "layer": layer, **plain,
            "seed": seed,
        },
        class_names=parts.class_names,
        class_ids=parts.class_ids,
        text_tower=parts.text_tower,
    )  # fmt: skip


def _from_conf(name: str) -> dict[str, Any]:
    known = sorted(path.stem for path in (CONF_DIR / "backbone").glob("*.yaml"))
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        raise UserError(
            f"there is no backbone {name!r}{f', did you mean {close[0]!r}?' if close else ':'} "
            f"conf/backbone holds {', '.join(known)}; any other model needs its family first, "
            "load_backbone('timm', 'vit_tiny_patch16_224')"
        )
    content = defaults(f"backbone/{name}")
    return {key: value for key, value in content.items() if key != "_target_"}


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
