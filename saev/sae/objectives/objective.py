"""What an objective is: terms of the loss of one step; the plain one is the squared error.

An objective encodes, decodes and returns its terms; their sum is the loss. Errors and penalties are
averaged over tokens and in normalised units, where E‖x̄‖² = d. What has to survive an interruption
is a buffer.

Shapes: `b` tokens, `d` d_model, `s` d_sae, `z` latents held per token.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saev.sae.config import SAEConfig
from saev.sae.encode import BatchCodes, Encoding, alone, encode_normalized
from saev.sae.model import SparseAutoencoder


@dataclass(frozen=True)
class Step:
    """One training step as an objective sees it."""

    x_bar: Float[Tensor, "b d"]
    """What is encoded."""
    target: Float[Tensor, "b d"]
    """What is to be reconstructed: the same, but for a transcoder."""
    W_dec: Float[Tensor, "s d"]
    """The atoms as the decoder's parameterisation gives them."""
    how: Encoding
    number: int = 0
    """Optimiser steps done before."""
    total: float = float("inf")
    """Optimiser steps of the whole run."""
    seed: int = 0
    mean_over_ranks: Callable[[Tensor], Tensor] = alone


class ObjectiveValue(NamedTuple):
    """What an objective makes of a step."""

    x_hat: Float[Tensor, "b d"]
    """Reconstruction."""
    codes: BatchCodes
    terms: dict[str, Float[Tensor, ""]]
    """Weighted terms of the loss, "reconstruction" among them."""
    error_b: Float[Tensor, " b"]
    """‖x̄ − x̄̂‖² of each token."""


class Objective(nn.Module):
    """Base of all objectives, and itself the plain one: ‖x̄ − x̄̂‖²."""

    activations: tuple[str, ...] = ("relu", "topk", "batch_topk", "jump_relu", "gated")
    """Those that it makes sense with."""
    norm_weighted = False
    """Whether its penalty counts a code times the norm of its atom, so that atoms may have any."""
    needs_end = False
    """Whether it has a schedule over the whole run."""

    def check(self, cfg: SAEConfig) -> None:
        """Raises ValueError where the objective does not go with the dictionary."""
        if cfg.activation not in self.activations:
            allowed = " or ".join(self.activations)
            raise ValueError(
                f"objective {type(self).__name__} needs activation {allowed}, got {cfg.activation}."
            )

    def forward(self, sae: SparseAutoencoder, step: Step) -> ObjectiveValue:
        codes = encode_normalized(sae, step.x_bar, step.how)
        x_hat = codes.decode(step.W_dec, sae.b_dec)
        error_b = squared_error(step.target, x_hat)
        return ObjectiveValue(x_hat, codes, {"reconstruction": error_b.mean()}, error_b)

    def scalars(self, step: Step) -> dict[str, float | Tensor]:
        """What besides its terms is worth logging at this step."""
        return {}

    def describe(self) -> dict[str, Any]:
        """JSON-able: what a dictionary's recipe says of it."""
        settings = {k: v for k, v in vars(self).items() if _is_plain(k, v)}
        return {"kind": type(self).__name__, **settings}


def _is_plain(name: str, value: Any) -> bool:
    plain = isinstance(value, bool | int | float | str | list | tuple | None)
    return plain and not name.startswith("_") and name != "training"


def squared_error(x: Float[Tensor, "b d"], x_hat: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """‖x − x̂‖² of each token."""
    # Under autocast x̂ may be bfloat16; the difference takes the wider type of the two.
    return (x_hat - x).square().sum(-1)


def l1(codes: Float[Tensor, "b z"]) -> Float[Tensor, " b"]:
    """Σ_i |z_i| of each token.

    Where atoms have norm 1 this is also the sum weighted by their norms. Source: Bricken et al. 2023.
    """
    return codes.abs().sum(-1)


def warmup(step: int, n_steps: float | int) -> float:
    """Linear from 1/n at step 0 to 1 at step n − 1, then 1; ``n_steps=0`` is no warm-up."""
    return min(1.0, (step + 1) / n_steps) if n_steps > 0 else 1.0


def atom_norms(W_dec: Float[Tensor, "s d"]) -> Float[Tensor, " s"]:
    """L2 norm of each atom."""
    return torch.linalg.vector_norm(W_dec, dim=1)


def require(name: str, holds: bool, value: object, allowed: str) -> None:
    """Raises ValueError unless ``holds``."""
    if not holds:
        raise ValueError(f"{name} must be {allowed}, got {value}.")
