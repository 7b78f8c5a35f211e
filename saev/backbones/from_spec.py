"""A backbone from what a dictionary, a head or a steered model keeps of it.

The mapping may come from a stranger: its keys are those of ``load_backbone``, its values plain and
within limits, and of a model's constructor only sizes and switches are set.
"""

from collections.abc import Mapping
from typing import Any

from saev.backbones.base import Backbone
from saev.backbones.load import FAMILIES, load_backbone
from saev.backbones.open_clip_config import TOKENIZER_OPTIONS
from saev.errors import UserError
from saev.files import (
    Check,
    a_list,
    a_number,
    a_text,
    a_whole,
    an_object,
    check_fields,
    one_of,
    or_null,
    plain_data,
    plain_object,
    shown,
)

LARGEST_SIDE = 2048
"""Pixels of a picture as a model sees it."""
MOST_TOKENS = 2**16
MOST_WEIGHTS = 4e9
"""Of a model whose sizes a file sets; ViT-22B apart, published vision transformers have fewer."""

_SWITCHES = (
    "global_pool", "qkv_bias", "qk_norm", "class_token", "pos_embed", "no_embed_class", "pre_norm",
    "final_norm", "fc_norm", "dynamic_img_size", "dynamic_img_pad", "act_layer", "norm_layer",
    "weight_init", "use_abs_pos_emb", "use_rot_pos_emb", "use_rel_pos_bias", "scale_mlp",
    "swiglu_mlp", "quick_gelu", "custom_text",
)  # fmt: skip
_SIZES = (
    "img_size", "patch_size", "in_chans", "num_classes", "embed_dim", "depth", "num_heads",
    "mlp_ratio", "reg_tokens", "init_values", "num_reg_tokens", "drop_rate", "pos_drop_rate",
    "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate", "init_logit_scale",
    "init_logit_bias",
)  # fmt: skip


def _size(value: Any, name: str) -> str | None:
    number = a_number(-1e6, 1e6)
    check = a_list(number, 1, 4) if isinstance(value, list | tuple) else or_null(number)
    return check(value, name)


def _switch(value: Any, name: str) -> str | None:
    return None if value is None or isinstance(value, bool) else a_text(100)(value, name)


def _tower(value: Any, name: str) -> str | None:
    """``vision_cfg`` or ``text_cfg`` of open_clip."""
    if wrong := plain_object(value, name):
        return wrong
    for key in value.get("tokenizer_kwargs") or {}:
        if key not in TOKENIZER_OPTIONS:
            return (
                f"{name}.tokenizer_kwargs has {shown(key)}, none of {', '.join(TOKENIZER_OPTIONS)}"
            )
    entries = ((f"{name}.{key}", entry) for key, entry in value.items() if _is_number(entry))
    return next((wrong for key, entry in entries if (wrong := _size(entry, key))), None)


def _options(value: Any, name: str) -> str | None:
    """Keyword arguments of a model's constructor, and what they make together."""
    known: dict[str, Check] = {
        **dict.fromkeys(_SIZES, _size),
        **dict.fromkeys(_SWITCHES, _switch),
        "vision_cfg": _tower,
        "text_cfg": _tower,
    }
    return an_object({}, known)(value, name) or _too_large(value, name)


def _too_large(options: Mapping[str, Any], name: str) -> str | None:
    """Counts weights and tokens as those of a plain vision transformer."""
    for sizes in (options, options.get("vision_cfg") or {}, options.get("text_cfg") or {}):
        width = _first(sizes, ("width", "embed_dim"), 1024)
        depth = _first(sizes, ("layers", "depth"), 24)
        classes, patch = _first(sizes, ("num_classes", "vocab_size"), 0), sizes.get("patch_size")
        ratio = _first(sizes, ("mlp_ratio",), 4)
        set_here = {"width", "embed_dim", "layers", "depth", "mlp_ratio"} & sizes.keys()
        n_weights = (4 + 2 * ratio) * depth * width**2 if set_here else 0
        if n_weights + classes * width > MOST_WEIGHTS:
            return f"{name} asks for a model of {n_weights + classes * width:.1e} weights"
        side = _first(sizes, ("img_size", "image_size"), 224)
        if side**2 > MOST_TOKENS * _first({"p": patch}, ("p",), 16) ** 2:
            return f"{name} asks for more than {MOST_TOKENS:,} patches of an image"
    return None


def _first(sizes: Mapping[str, Any], keys: tuple[str, ...], otherwise: float | int) -> float:
    for key in keys:
        value = sizes.get(key)
        entries = value if isinstance(value, list) else [value]
        if numbers := [abs(float(str(n))) for n in entries if _is_number(n)]:
            return max(numbers)
    return float(otherwise)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _sides(value: Any, name: str) -> str | None:
    side = a_whole(1, LARGEST_SIDE)
    return (a_list(side, 1, 2) if isinstance(value, list | tuple) else side)(value, name)


SPEC = an_object(
    {"family": one_of(*FAMILIES), "name": a_text(200)},
    {
        "weights": or_null(a_text()),
        "layer": or_null(a_whole(-1000, 1000)),
        "pretrained_tag": or_null(a_text(200)),
        "image_size": or_null(_sides),
        "model_config": or_null(a_text()),
        "model_kwargs": or_null(_options),
        "mean": or_null(a_list(a_number(-1e3, 1e3), 3, 3)),
        "std": or_null(a_list(a_number(0, 1e3, above=True), 3, 3)),
        "interpolation": or_null(a_text(50)),
        "resize": or_null(a_text(50)),
        "crop_pct": or_null(a_number(0.1, 1)),
        "seed": or_null(a_whole()),
        "transform": plain_data,
        "class_names": or_null(a_list(a_text())),
    },
)
"""The arguments of ``load_backbone`` as JSON holds them."""


def checked_spec(spec: Any, where: str) -> dict[str, Any]:
    """The spec as it is; raises UserError, which ``where`` begins, for what no file may ask for."""
    check_fields(spec, SPEC, f"the backbone that {where} names", "use another dictionary or head")
    return dict(spec)


def backbone_from_spec(spec: Any, where: str, **changes: Any) -> Backbone:
    """The backbone that ``spec`` describes, after ``changes`` of the user's own.

    Raises:
        UserError: a spec that is refused, or what ``load_backbone`` raises.
    """
    try:
        return load_backbone(**{**checked_spec(spec, where), **changes})
    except UserError:
        raise
    except Exception as error:  # constructors fail in many ways on what they were not written for
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        raise UserError(
            f"the backbone that {where} names cannot be built ({reason}); use another dictionary "
            "or head"
        ) from error
