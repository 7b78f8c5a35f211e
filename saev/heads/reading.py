"""Features that a head reads of a backbone's output.

Shape legend: b batch, t tokens, r rows that are read of each image, e width of a row.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saev.backbones.base import Backbone, BackboneOutput
from saev.errors import UserError

FEATURES = ("class", "pooled", "embedding", "patches")


@dataclass(frozen=True)
class Reading:
    """A choice among a backbone's outputs, without the backbone itself.

    "class" is the final class token, "patches" are the final patch tokens, "pooled" is their mean,
    "embedding" is ``BackboneOutput.pooled``; all after the final norm.
    """

    features: str
    n_tokens: int
    """Length of the token axis."""
    positions: tuple[int, ...]
    """Of the tokens that are read; empty for the embedding."""
    grid: tuple[int, int]
    """Patches down and across."""

    @classmethod
    def of(cls, features: str, backbone: Backbone) -> Reading:
        """Raises UserError for features that are none of FEATURES or that the backbone lacks."""
        if features not in FEATURES:
            raise UserError(f"features={features!r} is not one of {', '.join(FEATURES)}.")
        positions: list[int] = []
        if features != "embedding":
            which = "class" if features == "class" else "patch"
            positions = backbone.token_indices(which).tolist()
        return cls(features, backbone.n_tokens, tuple(positions), backbone.grid)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Reading:
        """What ``to_dict`` gave."""
        rows, columns = values["grid"]
        return cls(
            values["features"], values["n_tokens"], tuple(values["positions"]), (rows, columns)
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        values = asdict(self)
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}

    def __call__(self, output: BackboneOutput) -> Float[Tensor, "b r e"]:
        """One row per image, or one per patch for "patches"."""
        if self.features == "embedding":
            return output.pooled[:, None]
        tokens_btd = output.tokens
        if tokens_btd.shape[1] != self.n_tokens:
            raise ValueError(
                f"output.tokens has {tokens_btd.shape[1]} tokens; this head reads a backbone with "
                f"{self.n_tokens}."
            )
        positions = torch.tensor(self.positions, device=tokens_btd.device)
        rows = tokens_btd.index_select(1, positions)
        return rows.mean(dim=1, keepdim=True) if self.features == "pooled" else rows
