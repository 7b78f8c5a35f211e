"""SAELens (``cfg.json``, ``sae_weights.safetensors``), of version 6 and before.

Encode: run-time normaliser, − b_dec (unless ``apply_b_dec_to_input`` is false), W_enc (d, s), b_enc.
BatchTopK and Matryoshka are saved as ``jumprelu``. Source: SAELens 6.54.12 at run time
(tests/interop/makers).
"""

from typing import Any

import torch
from torch import Tensor

from saev.errors import UserError
from saev.files import shown
from saev.interop.foreign import Foreign, Origin, signs_apart, tensor_of, whole_number
from saev.interop.raw_units import kept_in
from saev.interop.weights_files import OpenFiles

ACTIVATIONS = {
    "standard": "relu", "gated": "gated", "topk": "topk", "abstopk": "topk", "jumprelu": "jump_relu",
}  # fmt: skip
TOKEN_NORMS = {
    "none": "none", None: "none", "expected_average_only_in": "none", "layer_norm": "layer_norm",
    "constant_norm_rescale": "sqrt_d", "covariance_whitening": "none",
}  # fmt: skip
REFUSED = {
    "transcoder": "a transcoder reads one place of the model and writes at another",
    "skip_transcoder": "a transcoder reads one place of the model and writes at another",
    "jumprelu_transcoder": "a transcoder reads one place of the model and writes at another",
    "jumprelu_skip_transcoder": "a transcoder reads one place of the model and writes at another",
    "temporal": "its codes depend on other tokens",
    "matching_pursuit": "its codes come from a search in steps and not from one linear map",
    "batchtopk": "it is a training checkpoint whose codes depend on the batch; save it for inference",
    "matryoshka_batchtopk": (
        "it is a training checkpoint whose codes depend on the batch; save it for inference"
    ),
}


def claims(found: OpenFiles) -> bool:
    """Settings with an architecture, or those of versions before 6, beside W_enc."""
    known = "architecture" in found.config or "activation_fn_str" in found.config
    others = "hook_point_layer" in found.config or found.inside or found.header is not None
    return known and not others and "W_dec" in found.tensors


def read(found: OpenFiles) -> Foreign:
    """Raises UserError for an architecture that is no SAE of one place, or a normaliser unknown here."""
    config, where = found.config, found.where
    architecture = str(config.get("architecture") or _legacy(config))
    if architecture in REFUSED:
        raise UserError(f"{where} is a {architecture}: {REFUSED[architecture]}.")
    if architecture not in ACTIVATIONS:
        raise UserError(
            f"{where} has the architecture {shown(architecture)}; known are {', '.join(ACTIVATIONS)}."
        )
    normalizer = config.get("normalize_activations", "none")
    if normalizer not in TOKEN_NORMS:
        raise UserError(f"{where} has normalize_activations={shown(normalizer)}, unknown here.")
    said = []
    if normalizer in ("expected_average_only_in", "covariance_whitening"):
        said.append(
            f"normalize_activations={normalizer} is still named; SAELens itself then applies nothing, "
            "and so does this"
        )
    gated = architecture == "gated"
    W_enc, W_dec = (
        tensor_of(found.tensors, "W_enc", where).T,
        tensor_of(found.tensors, "W_dec", where),
    )
    b_enc = tensor_of(found.tensors, "b_gate" if gated else "b_enc", where)
    extras: dict[str, Tensor] = {}
    if gated:
        extras = {name: tensor_of(found.tensors, name, where) for name in ("r_mag", "b_mag")}
    elif architecture == "jumprelu":
        extras = {"threshold": tensor_of(found.tensors, "threshold", where)}
    k = None
    if architecture in ("topk", "abstopk"):
        kwargs = config.get("activation_fn_kwargs") or {}
        k = whole_number(config.get("k", kwargs.get("k")), "k", where)
        if config.get("rescale_acts_by_decoder_norm"):
            norms = torch.linalg.vector_norm(W_dec, dim=1)
            W_enc, b_enc = W_enc * norms[:, None], b_enc * norms
            W_dec = W_dec / norms[:, None]
            said.append("rescale_acts_by_decoder_norm was folded: atoms have norm 1")
    foreign = Foreign(
        "sae_lens", W_enc, b_enc, W_dec, tensor_of(found.tensors, "b_dec", where),
        ACTIVATIONS[architecture], k, extras, bool(config.get("apply_b_dec_to_input", True)),
        TOKEN_NORMS[normalizer], _origin(config), tuple(said), ours=kept_in(config.get("metadata")),
    )  # fmt: skip
    return signs_apart(foreign) if architecture == "abstopk" else foreign


def _legacy(config: Any) -> str:
    """Before version 6 an activation function stood for the architecture."""
    return {"relu": "standard", "topk": "topk"}.get(
        str(config.get("activation_fn_str")), str(config.get("activation_fn_str"))
    )


def _origin(config: Any) -> Origin:
    named = config.get("metadata") or config
    model, hook = named.get("model_name"), named.get("hook_name")
    tokens = named.get("tokens")
    return Origin(
        None if model is None else str(model),
        None if hook is None else str(hook),
        str(tokens) if isinstance(tokens, str) else None,
    )
