"""An edit of codes at one tap of the running model: x + decode(z') − decode(z).

Decoding is linear, so the difference is the sum over edited latents of (z' − z) · atom and nothing
else is computed. The reconstruction error stays where it was.
Suffixes: b images, t tokens, p chosen tokens, d width, s latents, m edited latents.
"""

from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor

from saev.editing.code_edits import CodeEdit, TokenCodes, apply_edits, edited_latents
from saev.editing.tokens import Encoded, Tokens, encode, write
from saev.sae import SparseAutoencoder

MODES = ("add", "replace")


class TapEdit:
    """A list of edits at one tap, as a function of the residual stream.

    ``backbone.forward(images, {layer: edit})`` runs a model with it, several layers at once where
    there are several. Edits that change no code change no bit. For a model to keep and to share see
    :class:`saev.steering.Steering`.

    Args:
        sae: the dictionary of that tap.
        edits: applied in order, see :func:`saev.editing.code_edits.apply_edits`.
        largest: per latent the largest code seen, the unit of the edits' amounts; None where no
            edit needs it.
        tokens: what may be touched; whether class and register tokens are is said here.
        mode: "add" keeps the reconstruction error; "replace" puts the edited reconstruction in
            place of every chosen token, so that reconstruction-only is its control.
        amount: the change of every code is multiplied by it; 1 is the edits as they are.

    Raises:
        ValueError: another mode, a latent that the dictionary does not have, or no ``largest`` where
            an edit needs it.
    """

    def __init__(
        self,
        sae: SparseAutoencoder,
        edits: Sequence[CodeEdit],
        largest: Float[Tensor, " s"] | None,
        tokens: Tokens,
        mode: str = "add",
        amount: float = 1.0,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}; choose one of {', '.join(MODES)}")
        wrong = [k for k in edited_latents(edits) if not 0 <= k < sae.cfg.d_sae]
        if wrong:
            raise ValueError(
                f"there is no latent {wrong[0]}: they go from 0 to {sae.cfg.d_sae - 1}"
            )
        if largest is None and any(edit.needs_largest for edit in edits):
            raise ValueError("amounts are multiples of the largest code seen; give largest")
        self.sae, self.edits, self.largest = sae, tuple(edits), largest
        self.tokens, self.mode, self.amount = tokens, mode, amount

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
        return write(encoded.acts, self.tokens.positions, encoded.x + delta, changed)

    def delta(
        self, encoded: Encoded, mask: Bool[Tensor, "b p"] | None = None
    ) -> tuple[Float[Tensor, "b p d"], Bool[Tensor, "b p"]]:
        """What is added to each chosen token in raw units, and which tokens change at all."""
        latents, dz_bpm = self._change(encoded, mask)
        changed_bp = (dz_bpm != 0).any(-1)
        delta_bpd = self.sae.step_to_raw(dz_bpm @ self.sae.W_dec[latents], encoded.x)
        return delta_bpd, changed_bp & encoded.normal

    def _change(self, encoded: Encoded, mask: Tensor | None) -> tuple[list[int], Tensor]:
        codes = TokenCodes(encoded.z, self.tokens.patches, self.tokens.is_class, mask)
        latents, new_bpm = apply_edits(self.edits, codes, self.largest)
        change_bpm = new_bpm - encoded.z[..., list(latents)]
        return list(latents), change_bpm if self.amount == 1 else self.amount * change_bpm

    def _replace(self, encoded: Encoded, mask: Tensor | None) -> Tensor:
        latents, dz_bpm = self._change(encoded, mask)
        z = encoded.z.clone()
        z[..., latents] += dz_bpm
        new_bpd = self.sae.decode(z, encoded.x)
        return write(encoded.acts, self.tokens.positions, new_bpd, encoded.normal)
