"""overcomplete (a state dict, which the library has no saving of): encoder, dictionary, no biases out.

The library leaves the settings to whoever saves: a ``config.json`` beside the weights with ``class``
(SAE, TopKSAE, BatchTopKSAE, JumpSAE, MpSAE …), ``top_k`` and, of BatchTopK, ``running_threshold``, which
its state dict lacks. Encode: linear map, foldable batch norm, ReLU first; no bias of the decoder.
Source: overcomplete 0.3.0 at run time (tests/interop/makers).
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from saev.errors import UserError
from saev.files import shown
from saev.interop.foreign import Foreign, tensor_of, whole_number
from saev.interop.weights_files import Found

CLASSES = {
    "SAE": "relu", "TopKSAE": "topk", "BatchTopKSAE": "batch_topk", "JumpSAE": "jump_relu",
    "RATopKSAE": "topk", "RAJumpSAE": "jump_relu", "RABatchTopKSAE": "batch_topk", "RASAE": "relu",
}  # fmt: skip
BATCH_NORM_EPSILON = 1e-5


def claims(found: Found) -> bool:
    """Tensors below ``dictionary.``."""
    return any(name.startswith("dictionary.") for name in found.tensors)


def read(found: Found) -> Foreign:
    """Raises UserError for a class unknown here, settings that are missing, or an encoder of several
    layers."""
    config, where, t = found.config, found.where, found.tensors
    kind = config.get("class", config.get("sae_type"))
    if kind not in CLASSES:
        raise UserError(
            f"{where} does not say of which class it is ({shown(kind)}): put a config.json with class "
            f"({', '.join(CLASSES)}) and top_k beside it."
        )
    activation, k, extras = CLASSES[kind], None, {}
    said = ["atoms are brought to norm 1 where the library does so in training alone"]
    if activation in ("topk", "batch_topk"):
        k = whole_number(config.get("top_k", config.get("k")), "top_k", where)
    if activation == "batch_topk":
        threshold = config.get("running_threshold", config.get("threshold"))
        if not isinstance(threshold, int | float) or isinstance(threshold, bool):
            raise UserError(
                f"{where} has no running_threshold, which the state dict of a BatchTopKSAE lacks: put it "
                "into config.json beside the weights."
            )
        extras = {"threshold": torch.tensor(float(threshold))}
    elif activation == "jump_relu":
        extras = {"threshold": tensor_of(t, "thresholds", where).exp()}
    W_enc, b_enc = _encoder(t, where)
    W_dec = _dictionary(t, where)
    return Foreign(
        "overcomplete", W_enc, b_enc, W_dec, torch.zeros(W_dec.shape[1]), activation, k, extras,
        subtract_b_dec=False, said=tuple(said),
    )  # fmt: skip


def _encoder(t: Mapping[str, Any], where: str) -> tuple[Tensor, Tensor]:
    """One linear map, with a batch norm after it folded in."""
    layers = sorted({name.split(".")[1] for name in t if re.match(r"encoder\.[a-z_]*block", name)})
    if len(layers) > 1 or any(name.startswith("encoder.input") for name in t):
        raise UserError(
            f"{where} has an encoder of several layers, which no linear map and bias can stand for."
        )
    root = "encoder.final_block.0" if "encoder.final_block.0.weight" in t else "encoder"
    W_enc = tensor_of(t, f"{root}.weight", where)
    b_enc = (
        tensor_of(t, f"{root}.bias", where) if f"{root}.bias" in t else W_enc.new_zeros(len(W_enc))
    )
    norm = "encoder.final_block.1"
    if f"{norm}.weight" not in t:
        return W_enc, b_enc
    if f"{norm}.running_var" not in t:
        raise UserError(
            f"{where} normalises the pre-activations of each token, which cannot be folded into weights."
        )
    gain = tensor_of(t, f"{norm}.weight", where) / torch.sqrt(
        tensor_of(t, f"{norm}.running_var", where) + BATCH_NORM_EPSILON
    )
    shift = tensor_of(t, f"{norm}.bias", where) - gain * tensor_of(t, f"{norm}.running_mean", where)
    return W_enc * gain[:, None], b_enc * gain + shift


def _dictionary(t: Mapping[str, Any], where: str) -> Tensor:
    if "dictionary.W" in t:  # archetypal: convex combinations of data points, and a relaxation
        W = tensor_of(t, "dictionary.W", where)
        atoms = W @ tensor_of(t, "dictionary.C", where) + tensor_of(t, "dictionary.Relax", where)
    else:
        atoms = F.normalize(tensor_of(t, "dictionary._weights", where), dim=1)
    return atoms * tensor_of(t, "dictionary.multiplier", where).exp()
