"""ViSAEBench's dictionaries (``sae.pt`` or ``model.safetensors`` with ``config.json`` or ``config.yaml``).

Encoder (s, d), decoder (d, s), and a threshold that a code must reach (≥). Their input is
(x − mean)/std with statistics of ImageNet that the benchmark measures anew and the file does not hold:
a recording must give them. Source: research papers' layout as ViSAEBench 1 reads it
(tests/interop/makers).
"""

from typing import Any

import torch
from torch import Tensor

from saev.errors import UserError
from saev.files import shown
from saev.interop.foreign import Foreign, Origin, reached, tensor_of, whole_number
from saev.interop.weights_files import Found

ACTIVATIONS = {
    "batchtopk": "batch_topk", "batch_topk": "batch_topk", "topk": "topk", "relu": "relu",
    "standard": "relu", "vanilla": "relu",
}  # fmt: skip


def claims(found: Found) -> bool:
    """A linear encoder and a linear decoder, without the settings of a trainer."""
    return {"encoder.weight", "decoder.weight"} <= set(found.tensors) and not isinstance(
        found.config.get("trainer"), dict
    )


def read(found: Found) -> Foreign:
    """Raises UserError for an activation unknown here."""
    config, where, t = found.config, found.where, found.tensors
    named = config.get("activation", config.get("sae_type", config.get("architecture")))
    activation = ACTIVATIONS.get(str(named).lower().replace("-", "_"))
    if activation is None:
        raise UserError(
            f"{where} has the activation {shown(named)}; known are {', '.join(ACTIVATIONS)}: name it in "
            "config.json beside the weights."
        )
    W_enc, said = tensor_of(t, "encoder.weight", where), []
    k = None if activation == "relu" else whole_number(config.get("k"), "k", where)
    extras: dict[str, Tensor] = {}
    if activation == "batch_topk":
        threshold = t.get("threshold", config.get("threshold"))
        if threshold is None:
            said.append("it has no threshold: as in the benchmark, every positive code passes")
        extras = {"threshold": reached(torch.tensor(_number(threshold, where)))}
    b_enc = (
        tensor_of(t, "encoder.bias", where) if "encoder.bias" in t else W_enc.new_zeros(len(W_enc))
    )
    decoder = tensor_of(t, "decoder.weight", where).T
    b_dec = tensor_of(t, "decoder.bias", where) if "decoder.bias" in t else decoder.new_zeros(
        decoder.shape[1]
    )  # fmt: skip
    return Foreign(
        "visaebench", W_enc, b_enc, decoder, b_dec, activation, k, extras, subtract_b_dec=False,
        origin=Origin(config.get("model_name", config.get("model")), config.get("hook_name")),
        said=tuple(said), open_question="normalization",
    )  # fmt: skip


def _number(value: Any, where: str) -> float:
    if value is None:
        return 0.0
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{where} has threshold={shown(value)} where a number belongs.")
    return float(value)
