"""ViT-Prisma (``weights.pt``, ``config.json``), and files {cfg, state_dict} of PatchSAE and CytoSAE.

Encode: normaliser of each token (``layer_norm`` where Prisma's settings name none), − b_dec, W_enc (d, s),
b_enc. PatchSAE and CytoSAE: ReLU, no normaliser. Source: ViT-Prisma 2.0, ``sae/sae.py``.
"""

from typing import Any

from torch import Tensor

from saev.errors import UserError
from saev.files import shown
from saev.interop.foreign import Foreign, Origin, tensor_of, whole_number
from saev.interop.sae_lens import TOKEN_NORMS
from saev.interop.weights_files import OpenFiles


def claims(found: OpenFiles) -> bool:
    """Settings that name a hook point of Prisma's kind, or lie in the file of the weights."""
    ours = "W_enc" in found.tensors and "W_dec" in found.tensors and found.header is None
    return ours and ("hook_point_layer" in found.config or found.inside)


def read(found: OpenFiles) -> Foreign:
    """Raises UserError for a transcoder, or an activation or normaliser unknown here."""
    config, where, t = found.config, found.where, found.tensors
    of_prisma = "hook_point_layer" in config and "activation_fn_str" in config
    if config.get("is_transcoder") or "b_dec_out" in t:
        raise UserError(
            f"{where} is a transcoder: it reads one place of the model and writes at another."
        )
    normalizer = config.get("normalize_activations", "layer_norm" if of_prisma else "none")
    if normalizer not in TOKEN_NORMS:
        raise UserError(f"{where} has normalize_activations={shown(normalizer)}, unknown here.")
    function = str(config.get("activation_fn_str", "topk" if of_prisma else "relu"))
    gated = "b_gate" in t
    if function not in ("relu", "topk") or (gated and function != "relu"):
        raise UserError(f"{where} has activation_fn_str={shown(function)}, unknown here.")
    k, extras, activation = None, {}, function
    if gated:
        activation = "gated"
        extras = {name: tensor_of(t, name, where) for name in ("r_mag", "b_mag")}
    elif function == "topk":
        k = whole_number((config.get("activation_fn_kwargs") or {}).get("k"), "k", where)
    said = () if not of_prisma or "normalize_activations" in config else (
        "the file names no normaliser; Prisma's default, layer_norm of each token, is used",
    )  # fmt: skip
    bias: Tensor = tensor_of(t, "b_gate" if gated else "b_enc", where)
    return Foreign(
        "prisma" if of_prisma else "patch_sae", tensor_of(t, "W_enc", where).T, bias,
        tensor_of(t, "W_dec", where), tensor_of(t, "b_dec", where), activation, k, extras,
        token_norm=TOKEN_NORMS[normalizer], origin=_origin(config), said=said,
    )  # fmt: skip


def _origin(config: Any) -> Origin:
    model, layer = (
        config.get("model_name"),
        config.get("hook_point_layer", config.get("block_layer")),
    )
    if isinstance(layer, list) and len(layer) == 1:
        layer = layer[0]
    place = config.get("layer_subtype", "hook_resid_post")
    hook = f"blocks.{layer}.{place}" if isinstance(layer, int) else None
    tokens = "class" if config.get("cls_token_only") else None
    if config.get("use_patches_only"):
        tokens = "patch"
    elif tokens is None and "cls_token_only" in config:
        tokens = "all"
    return Origin(None if model is None else str(model), hook, tokens)
