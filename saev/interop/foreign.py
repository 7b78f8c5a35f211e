"""A dictionary of another library in this project's terms, before it becomes one of ours.

Shapes: `d` d_model, `s` d_sae. Encoders and decoders are kept as here, both (s, d).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from saev.errors import UserError
from saev.files import shown
from saev.sae import SAEConfig, SparseAutoencoder


@dataclass(frozen=True)
class Origin:
    """Which activations a file says it was trained on, in the file's own words."""

    model: str | None = None
    hook: str | None = None
    """Place in the model, such as ``blocks.9.hook_resid_post``."""
    tokens: str | None = None
    """"patch", "class" or "all" of our kinds, where the file says so."""


@dataclass(frozen=True)
class Foreign:
    """What a layout's reader makes of a file."""

    layout: str
    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    activation: str
    k: int | float | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    """threshold, r_mag and b_mag, W_skip, mean, scale, by their names in our state dict."""
    subtract_b_dec: bool = True
    token_norm: str = "none"
    origin: Origin = field(default_factory=Origin)
    said: tuple[str, ...] = ()
    """What a user should know of how the file was read, a sentence each."""
    ours: Mapping[str, Any] = field(default_factory=dict)
    """Fields of ``SAEConfig``, where a file was written here."""
    open_question: str | None = None
    """What only activations can decide: "subtract_b_dec" or "normalization"."""


def to_dictionary(foreign: Foreign, where: str) -> SparseAutoencoder:
    """The dictionary, in eval mode, without gradients, not yet told which model it belongs to.

    Raises:
        UserError: shapes that contradict each other, values that are not finite, a k or threshold out
            of range; ``where`` names the file.
    """
    if foreign.W_enc.ndim != 2:
        raise UserError(
            f"{where} has an encoder of shape {tuple(foreign.W_enc.shape)}, not (s, d)."
        )
    d_sae, d_model = foreign.W_enc.shape
    try:
        cfg = SAEConfig(
            d_model,
            d_sae,
            foreign.activation,
            foreign.k,
            foreign.subtract_b_dec,
            token_norm=foreign.token_norm,
            skip="W_skip" in foreign.extras,
        )
    except ValueError as error:
        raise UserError(f"{where} cannot be used: {error}") from error
    sae = SparseAutoencoder(cfg, torch.Generator()).to(foreign.W_enc.dtype)
    given = {name: getattr(foreign, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    given |= foreign.extras
    state = sae.state_dict()
    for name, tensor in given.items():
        if name not in state:
            raise UserError(f"{where} has {name}, which {foreign.activation} does not have.")
        if tensor.shape != state[name].shape:
            raise UserError(
                f"{where} has {name} of shape {tuple(tensor.shape)} where its encoder asks for "
                f"{tuple(state[name].shape)}; the file is damaged or of another layout."
            )
        if not bool(tensor.isfinite().all()):
            raise UserError(f"{where} has values in {name} that are not finite; use another file.")
    sae.load_state_dict({**state, **given})
    return sae.eval().requires_grad_(False)


QUESTIONS = {
    "subtract_b_dec": "does not say whether b_dec is subtracted; a recording of its layer decides it",
    "normalization": "does not hold the mean and scale of its inputs; a recording of its layer gives them",
}


def refuse_open(foreign: Foreign, where: str) -> None:
    """Raises UserError where only activations can say how to read a file, and none are given."""
    if foreign.open_question is not None:
        raise UserError(
            f"{where} {QUESTIONS[foreign.open_question]}: python -m saev.convert sae=… recording=DIR out=…"
        )


def tensor_of(tensors: Mapping[str, Any], key: str, where: str) -> Tensor:
    """A tensor of floats as float32, or float64 where it was; raises UserError where there is none."""
    value = tensors.get(key)
    if not isinstance(value, Tensor):
        held = ", ".join(map(str, list(tensors)[:8]))
        raise UserError(f"{where} has no tensor {key} (it holds {held}); it is cut off or damaged.")
    if not (value.is_floating_point() or value.ndim == 0):
        raise UserError(f"{where} has {key} of type {value.dtype}, not floats; use another file.")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise UserError(
            f"{where} has {key} of shape {tuple(value.shape)} in a file too small for it."
        )
    wide = value.detach().cpu()
    return wide if wide.dtype == torch.float64 else wide.float()


def whole_number(value: Any, name: str, where: str) -> int:
    """A positive whole number of a file, a tensor of one entry too."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or value != value // 1
        or value < 1
    ):
        raise UserError(f"{where} has {name}={shown(value)} where a positive whole number belongs.")
    return int(value)


def reached(threshold: Tensor) -> Tensor:
    """The threshold with which "pre > θ" says what "ReLU(pre) ≥ threshold" says, in its own precision."""
    below = torch.nextafter(threshold, threshold.new_tensor(-torch.inf))
    return torch.where(threshold > 0, below, threshold)


def signs_apart(foreign: Foreign) -> Foreign:
    """Signed codes as twice as many latents, one for each sign: z_i = u_i − u_(s+i), exactly.

    The k largest of both are the k largest in absolute value, since of each pair one is positive.
    """
    return replace(
        foreign,
        W_enc=torch.cat([foreign.W_enc, -foreign.W_enc]),
        b_enc=torch.cat([foreign.b_enc, -foreign.b_enc]),
        W_dec=torch.cat([foreign.W_dec, -foreign.W_dec]),
        activation="topk",
        said=(
            *foreign.said,
            f"codes are signed there: latent i here is +i there, and latent {len(foreign.b_enc)} + i "
            "is −i",
        ),
    )
