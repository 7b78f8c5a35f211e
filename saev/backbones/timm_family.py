"""timm's vision transformers: VisionTransformer, DeiT, BEiT, EVA and DINOv3 with rotary embeddings.

Also the micro ViT, a timm VisionTransformer whose weights come with the package.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any, cast

from torch import nn

from saev.backbones.family import Parts, Request, check_image_size, seeded
from saev.backbones.timm_trunk import TimmTrunk, imagenet_subset
from saev.backbones.transform import ImageTransform
from saev.backbones.weights import (
    find_weights,
    load_exactly,
    other_architecture,
    read_state_dict,
    state_dict_sha256,
)
from saev.errors import UserError, first_line
from saev.files import file_sha256, read_json

MICRO = "micro"


def build(request: Request) -> Parts:
    """The model filled with the requested weights, and what timm's configuration says about it."""
    if request.model_config is not None:
        raise UserError("backbone.model_config is for open_clip models; timm names are complete.")
    if request.name == MICRO:
        return _build_micro(request)
    name = _full_name(request)
    _check_quick_gelu(name)
    if request.weights == "random":
        model = _create(name, request)
        weights = _random(model, request.seed)
    elif request.weights == "pretrained":
        model, weights = _pretrained(name, request)
    else:
        model, weights = _from_file(name, request)
    trunk = TimmTrunk(model, name)
    check_image_size(trunk.image_size, tuple(trunk.model.patch_embed.patch_size), name)
    names, ids = imagenet_classes(trunk)
    return Parts(trunk, timm_transform(trunk), weights, names, ids)


def _full_name(request: Request) -> str:
    import timm

    name, tag = request.name, request.pretrained_tag
    architecture, _, tag_in_name = name.partition(".")
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "timm.list_models() lists them."
        raise UserError(f"timm has no model {architecture!r}: {hint}")
    if tag and tag_in_name and tag != tag_in_name:
        raise UserError(
            f"backbone.name={name} and backbone.pretrained_tag={tag} disagree: keep one."
        )
    tag = tag or tag_in_name
    known = [n.partition(".")[2] for n in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in known:
        raise UserError(
            f"timm {architecture} has no weights tagged {tag!r}; "
            f"it has {', '.join(known) or 'none'}."
        )
    return f"{architecture}.{tag}" if tag else architecture


def _create(name: str, request: Request, **pretrained: Any) -> nn.Module:
    import timm

    kwargs = dict(request.model_kwargs)
    if request.image_size is not None:
        kwargs["img_size"] = request.image_size
    with seeded(request.seed):
        try:
            return timm.create_model(name, **kwargs, **pretrained)
        except TypeError as error:
            raise UserError(f"timm {name} cannot be built with {kwargs}: {error}.") from error


def _random(model: nn.Module, seed: int) -> dict[str, str]:
    source = f"random, seed {seed}"
    return {"kind": "random", "source": source, "sha256": state_dict_sha256(model)}


def _pretrained(name: str, request: Request) -> tuple[nn.Module, dict[str, str]]:
    import timm

    from saev.backbones.hub import fetching

    config = timm.get_pretrained_cfg(name)
    n_classes = request.model_kwargs.get("num_classes")
    if config is not None and n_classes not in (None, config.num_classes):
        raise UserError(
            f"The pretrained weights of timm {name} have {config.num_classes} classes, so "
            f"num_classes={n_classes} would leave a random classifier: leave it out."
        )
    if config is None or not config.has_weights:
        raise UserError(
            f"There are no pretrained weights for timm {name}: name a tag with "
            "backbone.pretrained_tag, or set backbone.weights=FILE or backbone.weights=random."
        )
    with fetching(f"The weights of timm {name}"):
        model = _create(name, request, pretrained=True)
    source = str(config.hf_hub_id or config.url)
    return model, {"kind": "pretrained", "source": source, "sha256": state_dict_sha256(model)}


def _from_file(name: str, request: Request) -> tuple[nn.Module, dict[str, str]]:
    path, configs = find_weights(request.weights, preferred="model.safetensors")
    tensors = read_state_dict(path)
    # as an overlay, timm converts foreign key names and resizes the position embedding by itself
    overlay = {"state_dict": tensors, **_described(configs, name)}
    if "num_classes" in request.model_kwargs:  # or timm would drop a head of another size
        overlay["num_classes"] = request.model_kwargs["num_classes"]
    try:
        model = _create(name, request, pretrained=True, pretrained_cfg_overlay=overlay)
    except UserError:
        raise
    except Exception as error:  # a conversion meant for other keys may fail in any way
        raise _mismatch(str(path), name, error) from error
    cast(Any, model).pretrained_cfg.pop("state_dict", None)
    return model, {"kind": "file", "source": request.weights, "sha256": file_sha256(path)}


def _described(configs: list[Path], name: str) -> dict[str, Any]:
    """Preprocessing and number of classes from the config.json of a timm snapshot of the hub."""
    config = next((read_json(path) for path in configs if path.name == "config.json"), {})
    if "pretrained_cfg" not in config:
        return {}
    architecture = config.get("architecture")
    if architecture != name.partition(".")[0]:
        raise UserError(
            f"The config.json beside the weights is of timm {architecture}, not of {name}: "
            "set backbone.name to the model they belong to."
        )
    keys = ("mean", "std", "interpolation", "crop_pct", "crop_mode", "num_classes")
    return {key: config["pretrained_cfg"][key] for key in keys if key in config["pretrained_cfg"]}


def _mismatch(source: str, name: str, error: Exception) -> UserError:
    """torch lists every key over many lines; one example is enough."""
    text = str(error)
    for pattern, words in (
        (r"Missing key\(s\) in state_dict: \"([^\"]+)\"", "is missing"),
        (r"Unexpected key\(s\) in state_dict: \"([^\"]+)\"", "belongs nowhere"),
        (r"size mismatch for ([^:]+):", "has another shape"),
    ):
        if found := re.search(pattern, text):
            return other_architecture(source, f"timm {name}", f"{found[1]} {words}", 1)
    return other_architecture(source, f"timm {name}", first_line(error), 1)


def timm_transform(trunk: TimmTrunk) -> ImageTransform:
    """The preprocessing that the model's ``pretrained_cfg`` asks for."""
    from timm.data import resolve_model_data_config  # pyright: ignore[reportPrivateImportUsage]

    data = resolve_model_data_config(trunk.model)
    modes = {"center": "shortest", "squash": "squash"}
    if data["crop_mode"] not in modes:
        raise UserError(
            f"timm asks for crop_mode={data['crop_mode']!r}, which is not built here: set "
            "backbone.resize=shortest or squash."
        )
    return ImageTransform(
        image_size=trunk.image_size,
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        interpolation=data["interpolation"],
        resize=modes[data["crop_mode"]],
        crop_pct=float(data["crop_pct"]),
    )


def imagenet_classes(trunk: TimmTrunk) -> tuple[list[str] | None, list[str] | None]:
    """WordNet lemmas ("tench, Tinca tinca") and ids in the order of the classifier's columns."""
    from timm.data import ImageNetInfo

    subset = imagenet_subset(trunk.model) if trunk.has_classifier else None
    if subset is None:
        return None, None
    info = ImageNetInfo(subset)
    return [str(d) for d in info.label_descriptions()], list(info.label_names())


def _check_quick_gelu(name: str) -> None:
    import timm

    config = timm.get_pretrained_cfg(name)
    notes = " ".join(config.notes or ()) if config else ""
    if "natively QuickGELU" in notes and "quickgelu" not in name:
        architecture, _, tag = name.partition(".")
        twin = architecture.replace("_clip_", "_clip_quickgelu_")
        raise UserError(
            f"The weights {name} were trained with QuickGELU and this model has GELU: "
            f"set backbone.name={twin}.{tag}."
        )


def _build_micro(request: Request) -> Parts:
    from saev.backbones.micro.micro_vit import CONFIG, MICRO_DIR, WEIGHTS, build_vit

    if request.pretrained_tag is not None:
        raise UserError(
            "backbone.pretrained_tag has no meaning for micro: it has one set of weights."
        )
    config = read_json(MICRO_DIR / CONFIG)
    config["model"] |= request.model_kwargs
    if request.image_size is not None:
        config["model"]["img_size"] = list(request.image_size)
    with seeded(request.seed):
        model = build_vit(config)
    if request.weights == "random":
        weights = _random(model, request.seed)
    else:
        embedded = request.weights in ("pretrained", "embedded")
        path = MICRO_DIR / WEIGHTS if embedded else find_weights(request.weights, WEIGHTS).weights
        load_exactly(model, read_state_dict(path), path.name, "the micro ViT")
        source = "embedded" if embedded else request.weights
        weights = {"kind": "file", "source": source, "sha256": file_sha256(path)}
    trunk = TimmTrunk(model, MICRO)
    check_image_size(trunk.image_size, trunk.model.patch_embed.patch_size, MICRO)
    transform = ImageTransform(
        image_size=trunk.image_size,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
    )
    names = config["class_names"] if len(config["class_names"]) == model.num_classes else None
    return Parts(trunk, transform, weights, names)
