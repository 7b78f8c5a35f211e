"""dictionary_learning (``ae.pt``, ``config.json`` with a ``trainer``), and its forks for vision.

Decoders of ``nn.Linear`` are (d, s), plain ``W_dec`` (s, d). A ``norm_factor`` in the settings is already
folded. Source: dictionary_learning 0.1.0 at run time (tests/interop/makers).
"""

from typing import Any

from torch import Tensor

from saev.errors import UserError
from saev.files import shown
from saev.interop.foreign import Foreign, Origin, tensor_of, whole_number
from saev.interop.raw_units import kept_in
from saev.interop.weights_files import OpenFiles

CLASSES = (
    "AutoEncoder", "AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder",
    "GatedAutoEncoder", "AutoEncoderNew",
)  # fmt: skip


def claims(found: OpenFiles) -> bool:
    """Settings of a trainer with the class of its dictionary."""
    return "dict_class" in _trainer(found.config)


def read(found: OpenFiles) -> Foreign:
    """Raises UserError for a class unknown here."""
    trainer, where = _trainer(found.config), found.where
    kind = str(trainer["dict_class"]).replace("Matroyshka", "Matryoshka")  # forks spell it so
    if kind == "AutoEncoder" and "decoder.bias" in found.tensors:
        kind = "AutoEncoderNew"  # the library's trainers name both so
    if kind not in CLASSES:
        raise UserError(
            f"{where} has dict_class={shown(trainer['dict_class'])}; known are {', '.join(CLASSES)}."
        )
    t, said, k = found.tensors, [], None
    if "W_enc" in t:
        W_enc, b_enc = tensor_of(t, "W_enc", where).T, tensor_of(t, "b_enc", where)
        W_dec, b_dec = tensor_of(t, "W_dec", where), tensor_of(t, "b_dec", where)
    else:
        W_enc, W_dec = (
            tensor_of(t, "encoder.weight", where),
            tensor_of(t, "decoder.weight", where).T,
        )
        b_enc = tensor_of(t, "gate_bias" if kind == "GatedAutoEncoder" else "encoder.bias", where)
        b_dec = tensor_of(t, BIASES.get(kind, "b_dec"), where)
    extras: dict[str, Tensor] = {}
    activation, subtract = "relu", kind != "AutoEncoderNew"
    if kind == "AutoEncoderTopK":
        activation, k = "topk", whole_number(t.get("k", trainer.get("k")), "k", where)
    elif kind in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        activation, k = "batch_topk", whole_number(t.get("k", trainer.get("k")), "k", where)
        extras = {"threshold": tensor_of(t, "threshold", where)}
        if extras["threshold"] < 0:
            said.append("its threshold was never set, so that every positive code passes")
    elif kind == "JumpReluAutoEncoder":
        activation, extras = "jump_relu", {"threshold": tensor_of(t, "threshold", where)}
        subtract = bool(trainer.get("apply_b_dec_to_input", False))
        if "apply_b_dec_to_input" not in trainer:
            said.append("the file does not say whether b_dec is subtracted; by default it is not")
    elif kind == "GatedAutoEncoder":
        activation = "gated"
        extras = {"r_mag": tensor_of(t, "r_mag", where), "b_mag": tensor_of(t, "mag_bias", where)}
    if trainer.get("norm_factor") is not None:
        said.append("norm_factor is folded into the weights already")
    return Foreign(
        "dictionary_learning", W_enc, b_enc, W_dec, b_dec, activation, k, extras, subtract,
        origin=_origin(trainer), said=tuple(said), ours=kept_in(trainer),
    )  # fmt: skip


BIASES = {
    "AutoEncoder": "bias",
    "GatedAutoEncoder": "decoder_bias",
    "AutoEncoderNew": "decoder.bias",
}


def _trainer(config: Any) -> Any:
    trainer = config.get("trainer")
    return trainer if isinstance(trainer, dict) else {}


def _origin(trainer: Any) -> Origin:
    model, hook, layer = (trainer.get(key) for key in ("lm_name", "submodule_name", "layer"))
    if hook is None and isinstance(layer, int):
        hook = f"blocks.{layer}"
    return Origin(None if model is None else str(model), None if hook is None else str(hook))
