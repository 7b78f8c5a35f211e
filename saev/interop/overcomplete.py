"""overcomplete (a state dict, which the library has no saving of): encoder, dictionary, no biases out.

The library leaves the settings to whoever saves: a ``config.json`` beside the weights with ``class``
(one of ``CLASSES``), ``top_k``, of BatchTopK ``running_threshold``, which its state dict lacks, of
archetypal ones ``delta``, and ``dictionary_params``. Encode: linear map, foldable batch norm, ReLU
first; codes that reach a threshold pass (≥). Atoms are made as ``eval()`` makes them.
Source: overcomplete 0.3.0 at run time (tests/interop/makers).
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from saev.errors import UserError
from saev.files import shown
from saev.interop.foreign import Foreign, reached, tensor_of, whole_number
from saev.interop.visaebench import NAMED
from saev.interop.weights_files import OpenFiles

CLASSES = {
    "SAE": "relu", "TopKSAE": "topk", "BatchTopKSAE": "batch_topk", "JumpSAE": "jump_relu",
    "RATopKSAE": "topk", "RAJumpSAE": "jump_relu", "RABatchTopKSAE": "batch_topk", "RASAE": "relu",
}  # fmt: skip
REFUSED = {
    "MpSAE": "its codes come from a search in steps and not from one linear map",
    "OMPSAE": "its codes come from a search in steps and not from one linear map",
    "QSAE": "its codes are rounded to a few levels",
}
BATCH_NORM_EPSILON = 1e-5
EPSILON = 1e-8
"""Of the library's norms."""
DEFAULT_DELTA = 1.0
NORMALIZATIONS = ("l2", "max_l2", "l1", "max_l1", "identity")


def claims(found: OpenFiles) -> bool:
    """Tensors below ``dictionary.``."""
    named = any(key in found.config for key in NAMED)
    ours = any(name.startswith("dictionary.") for name in found.tensors)
    return ours and ("class" in found.config or not named)


def read(found: OpenFiles) -> Foreign:
    """Raises UserError for a class unknown here, settings that are missing, or an encoder of several
    layers."""
    config, where, t = found.config, found.where, found.tensors
    kind = config.get("class")
    if kind in REFUSED:
        raise UserError(f"{where} is a {kind}: {REFUSED[kind]}.")
    if kind not in CLASSES:
        raise UserError(
            f"{where} does not say of which class it is ({shown(kind)}): put a config.json with class "
            f"({', '.join(CLASSES)}) and top_k beside it."
        )
    activation, k, extras = CLASSES[kind], None, {}
    said = [f"atoms have the normalisation {_normalization(config, where)}"]
    W_dec = _dictionary(config, t, where)
    if activation == "topk":
        k = whole_number(config.get("top_k", config.get("k")), "top_k", where)
    elif activation == "batch_topk":
        threshold = config.get("running_threshold", config.get("threshold"))
        if not isinstance(threshold, int | float) or isinstance(threshold, bool):
            raise UserError(
                f"{where} has no running_threshold, which the state dict of a BatchTopKSAE lacks: put it "
                "into config.json beside the weights."
            )
        activation, extras = (
            "jump_relu",
            {"threshold": reached(torch.full((len(W_dec),), threshold))},
        )
        said.append("its top_k counts over a batch; the threshold stands for it")
    elif activation == "jump_relu":
        extras = {"threshold": reached(tensor_of(t, "thresholds", where).exp())}
    W_enc, b_enc = _encoder(t, W_dec, where)
    return Foreign(
        "overcomplete", W_enc, b_enc, W_dec, torch.zeros(W_dec.shape[1]), activation, k, extras,
        subtract_b_dec=False, said=tuple(said),
    )  # fmt: skip


def _encoder(t: Mapping[str, Any], W_dec: Tensor, where: str) -> tuple[Tensor, Tensor]:
    """One linear map, with a batch norm after it folded in."""
    layers = sorted({name.split(".")[1] for name in t if re.match(r"encoder\.[a-z_]*block", name)})
    if len(layers) > 1 or any(name.startswith("encoder.input") for name in t):
        raise UserError(
            f"{where} has an encoder of several layers, which no linear map and bias can stand for."
        )
    if any(name.startswith("encoder.tied_to.") for name in t):
        tied = "encoder.bias" in t
        return W_dec, tensor_of(t, "encoder.bias", where) if tied else W_dec.new_zeros(len(W_dec))
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


def _normalization(config: Any, where: str) -> str:
    found = (config.get("dictionary_params") or {}).get("normalization", "l2")
    if found not in NORMALIZATIONS:
        raise UserError(
            f"{where} has normalization={shown(found)}; known are {', '.join(NORMALIZATIONS)}."
        )
    return str(found)


def _dictionary(config: Any, t: Mapping[str, Any], where: str) -> Tensor:
    """The atoms as the library fuses them for inference."""
    multiplier = tensor_of(t, "dictionary.multiplier", where).exp()
    if "dictionary.W" in t:  # archetypal: convex combinations of data points, and a relaxation
        W, relax = (
            tensor_of(t, "dictionary.W", where).relu(),
            tensor_of(t, "dictionary.Relax", where),
        )
        W = W / (W.sum(1, keepdim=True) + EPSILON)
        delta = float(
            config.get("delta", (config.get("dictionary_params") or {}).get("delta", DEFAULT_DELTA))
        )
        relax = relax * (delta / torch.linalg.vector_norm(relax, dim=1, keepdim=True)).clamp(max=1)
        return (W @ tensor_of(t, "dictionary.C", where) + relax.nan_to_num()) * multiplier
    atoms, how = tensor_of(t, "dictionary._weights", where), _normalization(config, where)
    if how != "identity":
        norms = torch.linalg.vector_norm(atoms, ord=int(how[-1]), dim=1, keepdim=True)
        atoms = atoms / (norms.amax() if how.startswith("max") else norms + EPSILON)
    return atoms * multiplier
