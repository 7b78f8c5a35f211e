"""ViSAEBench's dictionaries (``sae.pt`` or ``model.safetensors`` with ``config.json`` or ``config.yaml``).

Encoder and decoder (s, d), the keys of overcomplete as well; ReLU first, then the k largest, codes that
reach a threshold (BatchTopK, ≥) or pass thresholds (JumpReLU, >). Their input is (x − mean)/std with
statistics of ImageNet that the benchmark measures anew and the file does not hold: a recording must
give them. Source: visaebench 0.1.0 at run time (tests/interop/makers).
"""

from typing import Any

import torch
from torch import Tensor

from saev.errors import UserError
from saev.files import shown
from saev.interop.foreign import Foreign, reached, tensor_of, whole_number
from saev.interop.weights_files import OpenFiles

ACTIVATIONS = {"batchtopk": "batch_topk", "topk": "topk", "jumprelu": "jump_relu"}
LEAST_JUMP = 0.01
"""Threshold of every latent where a file holds none, as in the benchmark."""
OVERCOMPLETE = "encoder.final_block.0"
NAMED = ("activation", "sae_type", "architecture", "input_dim", "k")
KNOWN = {
    "encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias", "_running_threshold",
    "jump_thresholds", "thresholds", f"{OVERCOMPLETE}.weight", f"{OVERCOMPLETE}.bias",
}  # fmt: skip


def claims(found: OpenFiles) -> bool:
    """A linear encoder and decoder, or overcomplete's keys, and nothing that other layouts have; settings
    that name an activation or a size."""
    names = {name for name in found.tensors if not name.startswith("dictionary.")}
    named = any(key in found.config for key in NAMED) and "class" not in found.config
    linear = {"encoder.weight", "decoder.weight"} <= names or f"{OVERCOMPLETE}.weight" in names
    return named and linear and names <= KNOWN


def read(found: OpenFiles) -> Foreign:
    """Raises UserError for an activation unknown here."""
    config, where, t, said = found.config, found.where, found.tensors, list[str]()
    named = config.get("activation", config.get("sae_type", config.get("architecture", "topk")))
    activation = ACTIVATIONS.get(str(named).lower())
    if activation is None:
        raise UserError(
            f"{where} has the activation {shown(named)}; known are {', '.join(ACTIVATIONS)}."
        )
    root, b_dec = "encoder", t.get("decoder.bias")
    if f"{OVERCOMPLETE}.weight" in t:
        root = OVERCOMPLETE
        W_dec = tensor_of(t, "dictionary._weights", where)
        if "dictionary.multiplier" in t:
            W_dec = W_dec * tensor_of(t, "dictionary.multiplier", where).exp()
    else:
        W_dec = tensor_of(t, "decoder.weight", where)
    W_enc, b_enc = (tensor_of(t, f"{root}.{name}", where) for name in ("weight", "bias"))
    k, extras = None, dict[str, Tensor]()
    if activation == "topk":
        k = whole_number(config.get("k"), "k", where)
    elif activation == "batch_topk":
        k = whole_number(config.get("k"), "k", where)
        threshold = config.get("threshold", t.get("_running_threshold"))
        if threshold is None:
            said.append("it has no threshold: as in the benchmark, every positive code passes")
        extras = {"threshold": reached(torch.tensor(_number(threshold, where)))}
    else:
        key = next((name for name in ("jump_thresholds", "thresholds") if name in t), None)
        thresholds = torch.full((len(W_enc),), LEAST_JUMP)
        if key is None:
            said.append(f"it has no thresholds: as in the benchmark, each is {LEAST_JUMP}")
        else:
            thresholds = tensor_of(t, key, where)
        extras = {"threshold": thresholds}
    return Foreign(
        "visaebench", W_enc, b_enc, W_dec,
        W_dec.new_zeros(W_dec.shape[-1]) if b_dec is None else tensor_of(t, "decoder.bias", where),
        activation, k, extras, subtract_b_dec=False, said=tuple(said), open_question="normalization",
    )  # fmt: skip


def _number(value: Any, where: str) -> float:
    if value is None:
        return 0.0
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{where} has threshold={shown(value)} where a number belongs.")
    return float(value)
