"""MSAE (one ``.pth``): pre_bias, encoder (d, s), latent_bias, decoder (s, d) or none where it is tied.

The settings stand in the name of the file, mean and scale of its inputs beside the weights. Encode:
(x − mean)·scale − pre_bias, encoder, latent_bias, ReLU or the k largest; back likewise. Source:
Zaigrajew et al. 2025 (arXiv 2502.20578) and its code (tests/interop/makers).
"""

import re

import torch
from torch import Tensor

from saev.errors import UserError
from saev.interop.foreign import Foreign, tensor_of, whole_number
from saev.interop.weights_files import OpenFiles

NAME = re.compile(
    r"^\d+_\d+_(?P<kind>[A-Za-z]+)(?:_(?P<k>\d+))?_(True|False)_(?P<norm>True|False)_(?P<cap>[\d.]+)_"
)
ACTIVATIONS = {"ReLU": "relu", "TopKReLU": "topk", "TopK": "signed_topk", "BatchTopK": None}


def claims(found: OpenFiles) -> bool:
    """The two biases that no other layout names so."""
    return {"pre_bias", "latent_bias"} <= set(found.tensors)


def read(found: OpenFiles) -> Foreign:
    """Raises UserError for a name that does not say the activation, a soft cap, or a normaliser after
    the mean."""
    t, where, beside = found.tensors, found.where, found.beside
    name = NAME.match(found.weights_name)
    if name is None or ACTIVATIONS.get(name["kind"]) is None:
        raise UserError(
            f"{where} does not say its activation: the name of a file of MSAE does, such as "
            "16_8_TopKReLU_64_False_False_0.0_train.pth; name it so."
        )
    if float(name["cap"]) > 0:
        raise UserError(
            f"{where} sends its codes through a soft cap, which no activation here has."
        )
    if name["norm"] == "True":
        raise UserError(
            f"{where} normalises each token after a mean is taken, here a normaliser comes before it."
        )
    activation = str(ACTIVATIONS[name["kind"]])
    k = None if activation == "relu" else whole_number(int(name["k"] or 0), "k", where)
    W_enc = tensor_of(t, "encoder", where).T
    extras: dict[str, Tensor] = {}
    if "mean_center" in beside:
        scale = beside.get("scaling_factor", 1.0)
        extras = {
            "mean": tensor_of(beside, "mean_center", where),
            "scale": torch.as_tensor(scale, dtype=torch.float32),
        }
    return Foreign(
        "msae", W_enc, tensor_of(t, "latent_bias", where),
        tensor_of(t, "decoder", where) if "decoder" in t else W_enc,
        tensor_of(t, "pre_bias", where), activation, k, extras,
    )  # fmt: skip
