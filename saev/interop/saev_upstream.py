"""The upstream saev of Stevens et al. (``sae.pt``: a line of JSON, then a state dict).

W_enc (d, s), W_dec (s, d). Files without a ``schema`` (the releases of February 2025) subtract b_dec and
have ReLU; from schema 3 on nothing is subtracted; of 1 and 2 both are about, and which one a file is only
activations can tell. TopK keeps the values of the k largest pre-activations, negative ones too.
Source: the repository's history, ``src/saev/nn/modeling.py`` (commits e7ca004, 8d38c23, 654befb).
"""

from typing import Any

from torch import Tensor

from saev.errors import UserError
from saev.files import shown
from saev.interop.foreign import Foreign, tensor_of, whole_number
from saev.interop.weights_files import OpenFiles

ACTIVATIONS = {"relu": "relu", "topk": "signed_topk", "batchtopk": "batch_topk"}
AMBIGUOUS = (1, 2)
LAST_SCHEMA = 5


def claims(found: OpenFiles) -> bool:
    """A header before the weights."""
    return found.header is not None


def read(found: OpenFiles) -> Foreign:
    """Raises UserError for a schema or an activation unknown here."""
    header, where, t = dict(found.header or {}), found.where, found.tensors
    schema = header.get("schema")
    if schema is not None and schema not in range(1, LAST_SCHEMA + 1):
        raise UserError(
            f"{where} has schema {shown(schema)}; this reads none and 1 to {LAST_SCHEMA}."
        )
    name, params = _activation(header)
    if name not in ACTIVATIONS:
        raise UserError(
            f"{where} has the activation {shown(name)}; known are Relu, TopK and BatchTopK."
        )
    activation, said, extras = ACTIVATIONS[name], [], {}
    k = None if activation == "relu" else whole_number(params.get("top_k", 32), "top_k", where)
    if activation == "batch_topk" and "activation.threshold" not in t:
        activation = "signed_topk"
        said.append(
            "it has no threshold: as the version that wrote it, each token keeps its k largest"
        )
    if activation == "batch_topk":
        extras = {"threshold": tensor_of(t, "activation.threshold", where)}
    if activation == "signed_topk":
        said.append(
            "where fewer than k codes are positive it keeps negative ones, and so does this"
        )
    bias: Tensor = tensor_of(t, "b_enc", where)
    return Foreign(
        "saev_upstream", tensor_of(t, "W_enc", where).T, bias, tensor_of(t, "W_dec", where),
        tensor_of(t, "b_dec", where), activation, k, extras, subtract_b_dec=schema is None,
        said=tuple(said), open_question="subtract_b_dec" if schema in AMBIGUOUS else None,
    )  # fmt: skip


def _activation(header: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Its name in small letters without hyphens, and its parameters."""
    if header.get("schema") is None:
        return "relu", {}
    cfg = header.get("cfg") or {}
    cls = header.get("cls")
    if cls in ("Relu", "TopK", "BatchTopK"):  # the first of two formats of schema 1
        return cls.lower(), cfg
    found = cfg.get("activation") or {"cls": "Relu"}
    params = found.get("params", found)
    name = str(found.get("cls") or found.get("key") or "").lower().replace("-", "")
    return name, params if isinstance(params, dict) else {}
