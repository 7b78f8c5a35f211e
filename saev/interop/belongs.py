"""Which backbone, layer and tokens a foreign dictionary belongs to, in this project's counting.

A file's own words come first into question: names of models, places in them. Layers are counted from 0
here: layer 10 is the output of the eleventh block.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from saev.defaults import defaults, names
from saev.errors import UserError
from saev.interop.foreign import Origin


class Place(NamedTuple):
    """What ``SAEConfig`` keeps of where activations come from; None is open."""

    backbone: dict[str, Any] | None
    layer: int | None
    tokens: dict[str, Any] | None


DATACOMP = {"pretrained_tag": "datacomp_xl_s13b_b90k"}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "openai/clip-vit-base-patch16": ("clip_b16", {}),
    "openai/clip-vit-base-patch32": ("clip_b32", {}),
    "openai/clip-vit-large-patch14": ("clip_l14", {}),
    "laion/clip-vit-b-32-laion2b-s34b-b79k": ("clip_b32_laion", {}),
    "laion/clip-vit-b-16-laion2b-s34b-b88k": ("clip_b16_laion", {}),
    "laion/clip-vit-b-32-datacomp.xl-s13b-b90k": ("clip_b32", DATACOMP),
    "imageomics/bioclip": ("bioclip_b16", {}),
    "facebook/dinov2-base": ("dinov2_b14", {"name": "vit_base_patch14_dinov2.lvd142m"}),
    "dinov2_vitb14": ("dinov2_b14", {"name": "vit_base_patch14_dinov2.lvd142m"}),
    "dinov2_vitb14_reg": ("dinov2_b14", {}),
    "facebook/dinov3-vitb16-pretrain-lvd1689m": ("dinov3_b16", {}),
    "facebook/vit-mae-base": ("mae_b16", {}),
    "google/siglip-base-patch16-224": ("siglip_b16", {}),
    "google/siglip2-base-patch16-224": ("siglip2_b16", {}),
    "vit-b-16/openai": ("clip_b16", {}),
    "vit-b-32/openai": ("clip_b32", {}),
    "vit-l-14/openai": ("clip_l14", {}),
}
"""Names that other libraries give models → file of ``conf/backbone``, and what differs from it."""

_PREFIX = re.compile(r"^(open[-_]?clip|timm|hf-hub|hf)[:/]")
_HOOK = re.compile(r"(?:^|\.)(?:blocks|layers?|resblocks|h)\.(\d+)(?:\.(.*))?$")
_AFTER = ("hook_resid_post", "output", None)
"""Places of a block that are its output."""


def origin_place(origin: Origin) -> tuple[Place, list[str]]:
    """The place that a file names, as far as it is known here, and a sentence on each part."""
    said: list[str] = []
    backbone = layer = None
    if origin.model is not None:
        known = _model(origin.model)
        if known is None:
            said.append(
                f"it was trained on {origin.model}, which is none of the vision models known here"
            )
        else:
            backbone = backbone_identity_of(*known)
    if origin.hook is not None:
        layer, words = _layer(origin.hook)
        said.append(words)
    tokens = None if origin.tokens is None else {"which": origin.tokens}
    return Place(backbone, layer, tokens), said


def backbone_identity_of(name: str, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a dictionary keeps of a backbone of ``conf/backbone`` whose weights nobody has looked at.

    Raises:
        UserError: there is no such file.
    """
    if name not in names("backbone"):
        raise UserError(
            f"there is no backbone {name!r}; conf/backbone holds {', '.join(names('backbone'))}"
        )
    values = {
        k: v for k, v in defaults(f"backbone/{name}").items() if k not in ("_target_", "layer")
    }
    spec = {**values, **(changes or {})}
    weights = str(spec.get("weights", "pretrained"))
    source = {"kind": weights, "source": str(spec.get("pretrained_tag") or spec["name"])}
    return {
        "family": spec["family"], "name": spec["name"], "weights": {**source, "sha256": None},
        "spec": spec,
    }  # fmt: skip


def _model(name: str) -> tuple[str, dict[str, Any]] | None:
    plain = _PREFIX.sub("", name.lower())
    if plain in MODELS:
        return MODELS[plain]
    return (plain, {}) if plain in names("backbone") else None


def _layer(hook: str) -> tuple[int | None, str]:
    found = _HOOK.search(hook)
    if found is None:
        return None, f"its place {hook} names no block known here"
    block, rest = int(found.group(1)), found.group(2) or None
    if rest in _AFTER:
        return block, f"its place {hook} is the output of block {block}, counted from 0"
    if rest == "hook_resid_pre" and block > 0:
        return block - 1, f"its place {hook} is the output of block {block - 1}, counted from 0"
    return None, (
        f"its place {hook} lies inside a block, where this project neither records nor edits: it can be "
        "read and converted, and not put into a running model"
    )
