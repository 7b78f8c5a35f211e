"""Configuration of an open_clip model: activation function, preprocessing, weights file."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from warnings import warn

from torch import Tensor

from saev.backbones.family import Request
from saev.backbones.hub import fetching
from saev.backbones.weights import (
    WeightsFiles,
    find_weights,
    read_state_dict,
)
from saev.errors import UserError
from saev.files import file_sha256, read_json

HUB = "hf-hub:"
CONFIG_NAME = "open_clip_config.json"
TOKENIZER_OPTIONS = ("clean", "strip_sep_token", "language", "reduction_mask")
"""Of ``text_cfg.tokenizer_kwargs``. Others would reach ``AutoTokenizer.from_pretrained``, and one of
those runs what a repository holds."""


@dataclass(frozen=True)
class Model:
    """Everything about an open_clip model but its modules."""

    name: str
    config: dict[str, Any]
    """Keyword arguments of open_clip's CLIP classes, QuickGELU settled."""
    preprocess: dict[str, Any]
    """Keyword arguments of ImageTransform but the image size."""
    image_size: tuple[int, int] | None
    """Asked for by the user."""
    weights: dict[str, str]
    """kind and source, and sha256 where there is a file."""
    tensors: Callable[[], dict[str, Tensor]] | None
    """Reads the weights file; None for random weights."""

    def tokenizer(self) -> Callable[..., Tensor]:
        """Texts to token ids; raises UserError when the tokenizer must be fetched and cannot be."""
        from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

        text = self.config["text_cfg"]
        length, options = text.get("context_length", 77), text.get("tokenizer_kwargs", {})
        if "hf_tokenizer_name" not in text:
            return SimpleTokenizer(context_length=length, **options)
        what = f"The tokenizer {text['hf_tokenizer_name']} of open_clip {self.name}"
        if refused := [key for key in options if key not in TOKENIZER_OPTIONS]:
            raise UserError(
                f"{what} asks for {refused[0]}, which is not passed on; use a head without text."
            )
        if find_spec("transformers") is None:
            raise UserError(
                f"{what} needs another package: pip install transformers sentencepiece, or use a "
                "head without text."
            )
        with fetching(what, remedy="go online once, or use a head without text"):
            return HFTokenizer(
                text["hf_tokenizer_name"],
                context_length=length,
                tokenizer_mode=text.get("tokenizer_mode"),
                **options,
            )


def resolve(request: Request) -> Model:
    """Finds configuration and weights, and refuses what contradicts itself."""
    files, described = None, {}
    if request.weights not in ("random", "pretrained"):
        files = find_weights(request.weights, preferred="open_clip_model.safetensors")
        described = _described(files, request.name)
    elif request.weights == "pretrained":
        files, described = _download(request)
    config = _architecture(request, described)
    for key, value in request.model_kwargs.items():  # "vision_cfg" and "text_cfg" are merged into
        config[key] = config.get(key, {}) | value if isinstance(value, dict) else value
    config["quick_gelu"] = _quick_gelu(request, config, described)
    if request.image_size is not None:
        config["vision_cfg"]["image_size"] = request.image_size
    config["vision_cfg"].pop("timm_model_pretrained", None)  # or it would download a timm model
    return Model(
        name=request.name,
        config=config,
        preprocess=_preprocess(request, described),
        image_size=request.image_size,
        weights=_provenance(request, files),
        tensors=partial(read_state_dict, files.weights) if files else None,
    )


def _described(files: WeightsFiles, name: str) -> dict[str, Any]:
    """What the JSON beside the weights says: open_clip's own file, or one named like the model."""
    for path in files.configs:
        if path.name == CONFIG_NAME:
            return read_json(path)
    for path in files.configs:
        if path.stem in (name, files.weights.stem):
            content = read_json(path)
            return content if "model_cfg" in content else {"model_cfg": content}
    return {}


def _download(request: Request) -> tuple[WeightsFiles, dict[str, Any]]:
    import open_clip
    from open_clip.factory import download_pretrained_from_hf

    tag = request.pretrained_tag
    if tag is None:
        raise UserError(
            f"backbone.weights=pretrained needs backbone.pretrained_tag for open_clip "
            f"{request.name}: {_tags(request.name)}."
        )
    with fetching(f"The weights {tag} of open_clip {request.name}"):
        if tag.startswith(HUB):
            hub_id = tag.removeprefix(HUB)
            described = read_json(Path(download_pretrained_from_hf(hub_id, CONFIG_NAME)))
            path = Path(download_pretrained_from_hf(hub_id))
        else:
            described = {}
            path = Path(open_clip.download_pretrained(_tag_config(request.name, tag)))
    return WeightsFiles(path, []), described


def _architecture(request: Request, described: dict[str, Any]) -> dict[str, Any]:
    import open_clip

    config: Any
    if request.model_config is not None:
        config = read_json(Path(request.model_config).expanduser())
        source, config = request.model_config, config.get("model_cfg", config)
    elif request.name in open_clip.list_models():
        source, config = request.name, open_clip.get_model_config(request.name)
    elif "model_cfg" in described:
        source, config = "the JSON beside the weights", described["model_cfg"]
    else:
        close = difflib.get_close_matches(request.name, open_clip.list_models(), n=3)
        hint = f" (did you mean {', '.join(close)}?)" if close else ""
        raise UserError(
            f"open_clip has no model {request.name!r}{hint}: name one it knows, or give its JSON "
            "as backbone.model_config."
        )
    missing = [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in config]
    if missing:
        raise UserError(f"{source} is no open_clip model configuration: {missing[0]} is missing.")
    return deepcopy(dict(config))


def _tag_config(name: str, tag: str | None) -> dict[str, Any]:
    """open_clip's entry for published weights; {} for hub models, which describe themselves."""
    import open_clip

    if tag is None or tag.startswith(HUB):
        return {}
    config = open_clip.get_pretrained_cfg(name, tag)
    if not config:
        raise UserError(f"open_clip {name} has no weights tagged {tag!r}: {_tags(name)}.")
    return dict(config)


def _tags(name: str) -> str:
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    return f"it has {', '.join(tags)}" if tags else "open_clip lists none for it"


def _quick_gelu(request: Request, config: dict[str, Any], described: dict[str, Any]) -> bool:
    """Weights tell nothing about their activation function, so the sources must agree on it."""
    import open_clip

    says: dict[str, bool] = {}
    if request.pretrained_tag and not request.pretrained_tag.startswith(HUB):
        entry = _tag_config(request.name, request.pretrained_tag)
        says[f"the tag {request.pretrained_tag}"] = bool(entry.get("quick_gelu", False))
    if "model_cfg" in described:
        says["the JSON beside the weights"] = bool(described["model_cfg"].get("quick_gelu", False))
    if config.get("quick_gelu"):
        says[f"the model {request.name}"] = True
    if len(set(says.values())) > 1:
        words = [f"{who} has {'QuickGELU' if yes else 'GELU'}" for who, yes in says.items()]
        raise UserError(
            f"The activation functions contradict each other: {' and '.join(words)}; set "
            "backbone.name and backbone.pretrained_tag to what the weights were trained with."
        )
    tags = open_clip.list_pretrained_tags_by_model(request.name)
    kinds = {bool(_tag_config(request.name, t).get("quick_gelu", False)): t for t in tags[::-1]}
    if not says and request.weights != "random" and len(kinds) == 2 and not request.pretrained_tag:
        raise UserError(
            f"open_clip {request.name} was published with and without QuickGELU, which a weights "
            f"file does not tell: set backbone.pretrained_tag={kinds[True]} (with) or "
            f"{kinds[False]} (without)."
        )
    return any(says.values())


def _preprocess(request: Request, described: dict[str, Any]) -> dict[str, Any]:
    from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD, list_pretrained_tags_by_model

    known = described.get("preprocess_cfg") or _tag_config(request.name, request.pretrained_tag)
    if "mean" not in known and request.weights not in ("random", "pretrained"):
        tags = list_pretrained_tags_by_model(request.name)
        known = _tag_config(request.name, tags[0]) if tags else {}
        if not known and not request.normalised:
            warn(
                f"Nothing says how images for {request.weights} are normalised: CLIP's mean and "
                "std are taken; set backbone.mean and backbone.std if they are others.",
                stacklevel=5,
            )
    mode = known.get("resize_mode") or "shortest"
    if mode == "longest":
        raise UserError("resize_mode='longest' is not built here: set backbone.resize=squash.")
    return {
        "mean": tuple(known.get("mean") or OPENAI_DATASET_MEAN),
        "std": tuple(known.get("std") or OPENAI_DATASET_STD),
        "interpolation": known.get("interpolation") or "bicubic",
        "resize": mode,
    }


def _provenance(request: Request, files: WeightsFiles | None) -> dict[str, str]:
    if files is None:
        return {"kind": "random", "source": f"random, seed {request.seed}"}
    pretrained = request.weights == "pretrained"
    return {
        "kind": "pretrained" if pretrained else "file",
        "source": str(request.pretrained_tag) if pretrained else request.weights,
        "sha256": file_sha256(files.weights),
    }
