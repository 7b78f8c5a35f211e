"""Tokens that a dictionary reads, their codes, and writing new values at them.

Every change of the residual stream goes through :func:`write`: chosen tokens of normal norm take
new values, all others pass through bit for bit.
Suffixes: b images, t tokens, p chosen tokens, d width, s latents, k shifts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saev.backbones import Backbone
from saev.backbones.taps import Edit
from saev.sae import SparseAutoencoder


@dataclass(frozen=True)
class Tokens:
    """The tokens a dictionary reads and edits may touch; all others pass through."""

    positions: Int[Tensor, " p"]
    """On the token axis."""
    patches: Int[Tensor, " p"]
    """Number of each one's patch, −1 for class and register tokens."""
    is_class: Bool[Tensor, " p"]

    @classmethod
    def of(cls, backbone: Backbone, which: str | Sequence[str] = "patch") -> "Tokens":
        """Those of one or several kinds ("patch", "class", "registers", "all")."""
        kinds = [which] if isinstance(which, str) else list(which)
        positions = torch.cat([backbone.token_indices(kind) for kind in kinds]).unique()
        patches = torch.where(positions >= backbone.n_prefix, positions - backbone.n_prefix, -1)
        is_class = torch.tensor([backbone.token_names[i] == "class" for i in positions.tolist()])
        return cls(positions, patches, is_class)

    def to(self, device: torch.device | str) -> "Tokens":
        return Tokens(self.positions.to(device), self.patches.to(device), self.is_class.to(device))


@dataclass(frozen=True)
class Encoded:
    """A batch at a tap, with what the dictionary makes of it; shared by all edits of the batch."""

    acts: Float[Tensor, "b t d"]
    x: Float[Tensor, "b p d"]
    """The chosen tokens, in the dictionary's precision."""
    z: Float[Tensor, "b p s"]
    normal: Bool[Tensor, "b p"]
    """Tokens of normal norm: the others are never edited."""


def encode(sae: SparseAutoencoder, tokens: Tokens, acts: Float[Tensor, "b t d"]) -> Encoded:
    """Codes of the chosen tokens of a batch."""
    x_bpd = acts[:, tokens.positions].to(sae.W_enc.dtype)
    return Encoded(acts, x_bpd, sae.encode(x_bpd), sae.is_normal(x_bpd))


def write(
    acts: Float[Tensor, "*n t d"],
    positions: Int[Tensor, " p"],
    new: Float[Tensor, "*n p d"],
    where: Bool[Tensor, "*n p"],
) -> Float[Tensor, "*n t d"]:
    """The stream with ``new`` at those of the ``positions`` that ``where`` says, in its own dtype."""
    chosen = acts[..., positions, :]
    written = acts.clone()
    written[..., positions, :] = torch.where(where[..., None], new.to(chosen.dtype), chosen)
    return written


def on_chosen_tokens(
    sae: SparseAutoencoder, positions: Int[Tensor, " p"], replace: Callable[[Tensor], Tensor]
) -> Edit:
    """An edit that applies ``replace`` to the tokens at ``positions`` whose norm is normal.

    ``replace`` maps activations (n, d) to activations (n, d) in raw units.
    """

    def edit(acts_btd: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        chosen_bpd = acts_btd[:, positions]
        new_bpd = replace(chosen_bpd.flatten(0, 1)).view_as(chosen_bpd)
        return write(acts_btd, positions, new_bpd, sae.is_normal(chosen_bpd))

    return edit


def add_shifts(
    acts: Float[Tensor, "b t d"],
    positions: Int[Tensor, " p"],
    shifts: Float[Tensor, "k d"],
    where: Bool[Tensor, "b p"],
) -> Float[Tensor, "k b t d"]:
    """The stream once per shift, with that shift added at those of the ``positions`` that ``where``
    says."""
    k, (b, _, _) = len(shifts), acts.shape
    new_kbpd = acts[:, positions] + shifts[:, None, None]
    return write(acts.expand(k, -1, -1, -1), positions, new_kbpd, where.expand(k, b, -1))
