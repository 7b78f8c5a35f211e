"""Edited codes inside the running model: x + decode(z') − decode(z) at a tap.

Decoding is linear, so the difference is the sum over edited latents of (z' − z) · atom and nothing
else is computed. The reconstruction error stays where it was.
Suffixes: b images, t tokens, p chosen tokens, d width, s latents, m edited latents.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saev.backbones import Backbone
from saev.editing.edits import CodeEdit, TokenCodes, apply_edits, edited_latents
from saev.sae import SparseAutoencoder

MODES = ("add", "replace")


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


def put_back(
    encoded: Encoded, tokens: Tokens, new_x: Float[Tensor, "b p d"], changed: Bool[Tensor, "b p"]
) -> Float[Tensor, "b t d"]:
    """The batch with ``new_x`` at the changed tokens of normal norm, everything else bit for bit."""
    touched = (changed & encoded.normal).unsqueeze(-1)
    chosen = encoded.acts[:, tokens.positions]
    acts = encoded.acts.clone()
    acts[:, tokens.positions] = torch.where(touched, new_x.to(chosen.dtype), chosen)
    return acts


class Steering:
    """A list of edits at one tap, as a function of the residual stream.

    ``backbone.forward(images, {layer: steering})`` runs a model with it, several layers at once
    where there are several. Edits that change no code change no bit.

    Args:
        sae: the dictionary of that tap.
        edits: applied in order, see :func:`saev.editing.edits.apply_edits`.
        largest: per latent the largest code seen, the unit of the edits' amounts.
        tokens: what may be touched; whether class and register tokens are is said here.
        mode: "add" keeps the reconstruction error; "replace" puts the edited reconstruction in
            place of every chosen token, so that reconstruction-only is its control.

    Raises:
        ValueError: another mode, or a latent that the dictionary does not have.
    """

    def __init__(
        self,
        sae: SparseAutoencoder,
        edits: Sequence[CodeEdit],
        largest: Float[Tensor, " s"],
        tokens: Tokens,
        mode: str = "add",
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}; choose one of {', '.join(MODES)}")
        wrong = [k for k in edited_latents(edits) if not 0 <= k < sae.cfg.d_sae]
        if wrong:
            raise ValueError(
                f"there is no latent {wrong[0]}: they go from 0 to {sae.cfg.d_sae - 1}"
            )
        self.sae, self.edits, self.largest = sae, tuple(edits), largest
        self.tokens, self.mode = tokens, mode

    def __call__(
        self, acts: Float[Tensor, "b t d"], mask: Bool[Tensor, "b p"] | None = None
    ) -> Float[Tensor, "b t d"]:
        return self.steer(encode(self.sae, self.tokens, acts), mask)

    def steer(
        self, encoded: Encoded, mask: Bool[Tensor, "b p"] | None = None
    ) -> Float[Tensor, "b t d"]:
        """The edited stream of a batch that is already encoded."""
        if self.mode == "replace":
            return self._replace(encoded, mask)
        delta, changed = self.delta(encoded, mask)
        return put_back(encoded, self.tokens, encoded.x + delta, changed)

    def delta(
        self, encoded: Encoded, mask: Bool[Tensor, "b p"] | None = None
    ) -> tuple[Float[Tensor, "b p d"], Bool[Tensor, "b p"]]:
        """What is added to each chosen token in raw units, and which tokens change at all."""
        latents, dz_bpm = self._change(encoded, mask)
        changed_bp = (dz_bpm != 0).any(-1)
        delta_bpd = dz_bpm @ self.sae.W_dec[latents] / self.sae.scale
        return delta_bpd, changed_bp & encoded.normal

    def _change(self, encoded: Encoded, mask: Tensor | None) -> tuple[list[int], Tensor]:
        codes = TokenCodes(encoded.z, self.tokens.patches, self.tokens.is_class, mask)
        latents, new_bpm = apply_edits(self.edits, codes, self.largest)
        return list(latents), new_bpm - encoded.z[..., list(latents)]

    def _replace(self, encoded: Encoded, mask: Tensor | None) -> Tensor:
        latents, dz_bpm = self._change(encoded, mask)
        z = encoded.z.clone()
        z[..., latents] += dz_bpm
        return put_back(encoded, self.tokens, self.sae.decode(z), torch.ones_like(encoded.normal))
