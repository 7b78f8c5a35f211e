"""sparsify (``cfg.json``, ``sae.safetensors``): TopK and GroupMax, with a skip connection where it has one.

Encode: x − b_dec (also with a skip connection), encoder (s, d), ReLU, then the k largest or the largest
of each of k groups. ``W_dec`` is (s, d). Source: sparsify 1.3.3 at run time (tests/interop/makers).
"""

from pathlib import Path

from torch import Tensor

from saev.errors import UserError
from saev.files import shown
from saev.interop.foreign import Foreign, Origin, tensor_of, whole_number
from saev.interop.weights_files import OpenFiles

ACTIVATIONS = {"topk": "topk", "groupmax": "group_max"}


def claims(found: OpenFiles) -> bool:
    """A linear encoder beside a plain W_dec."""
    return {"encoder.weight", "W_dec"} <= set(found.tensors)


def read(found: OpenFiles) -> Foreign:
    """Raises UserError for a transcoder, or an activation unknown here."""
    config, where, t = found.config, found.where, found.tensors
    if config.get("transcode"):
        raise UserError(
            f"{where} is a transcoder: it reads one place of the model and writes at another."
        )
    activation = str(config.get("activation", "topk"))
    if activation not in ACTIVATIONS:
        raise UserError(
            f"{where} has activation={shown(activation)}; known are {', '.join(ACTIVATIONS)}."
        )
    skip: dict[str, Tensor] = {"W_skip": tensor_of(t, "W_skip", where)} if "W_skip" in t else {}
    return Foreign(
        "sparsify", tensor_of(t, "encoder.weight", where), tensor_of(t, "encoder.bias", where),
        tensor_of(t, "W_dec", where), tensor_of(t, "b_dec", where), ACTIVATIONS[activation],
        whole_number(config.get("k"), "k", where), skip,
        origin=Origin(hook=Path(where).parent.name),
    )  # fmt: skip
