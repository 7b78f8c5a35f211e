"""The dictionary: x̄ = scale·(x − mean), z = act(W_enc(x̄ − b_dec) + b_enc), x̄̂ = z·W_dec + b_dec.

All of inference is in this file but for the activations' formulae, in ``activations``. Dictionaries of
others may have more: a normaliser of each token before the mean (``token_norm``), a linear path W_skip
beside the latents.

Shapes: `b` tokens, `d` d_model, `s` d_sae; `*n` any leading axes. A bar marks normalised units.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from saev.sae.config import SAEConfig
from saev.sae.initialize import initialize_
from saev.sae.sparse import top_k

if TYPE_CHECKING:
    from saev.sae.token_norm import TokenUnits


class SparseAutoencoder(nn.Module):
    """A sparse autoencoder on raw activations, with its input normalisation inside.

    A new one has random unit atoms, encoder rows equal to the atoms, and zero biases.

    Args:
        cfg: shape, activation and origin.
        generator: source of the random atoms; None uses torch's global one.
    """

    mean: Tensor
    scale: Tensor
    threshold: Tensor  # JumpReLU: (s,), trained; BatchTopK: one number, measured on data
    r_mag: Tensor  # Gated: (s,)
    b_mag: Tensor
    W_skip: Tensor  # with cfg.skip: (d, d)

    def __init__(self, cfg: SAEConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.cfg = cfg
        self.W_enc = nn.Parameter(torch.empty(cfg.d_sae, cfg.d_model))
        self.b_enc = nn.Parameter(torch.zeros(cfg.d_sae))
        self.W_dec = nn.Parameter(torch.empty(cfg.d_sae, cfg.d_model))
        self.b_dec = nn.Parameter(torch.zeros(cfg.d_model))
        self.register_buffer("mean", torch.zeros(cfg.d_model))
        self.register_buffer("scale", torch.ones(()))
        match cfg.activation:
            case "jump_relu":
                self.threshold = nn.Parameter(torch.zeros(cfg.d_sae))
            case "batch_topk":
                self.register_buffer("threshold", torch.zeros(()))
            case "gated":
                self.r_mag = nn.Parameter(torch.zeros(cfg.d_sae))
                self.b_mag = nn.Parameter(torch.zeros(cfg.d_sae))
        if cfg.skip:
            self.W_skip = nn.Parameter(torch.zeros(cfg.d_model, cfg.d_model))
        initialize_(self.W_enc, self.W_dec, "transpose", generator)

    @property
    def extras(self) -> tuple[str, ...]:
        """Names of the tensors that the activation adds: threshold, or r_mag and b_mag, or none."""
        return tuple(name for name in ("threshold", "r_mag", "b_mag") if hasattr(self, name))

    def _apply(self, fn: Any, recurse: bool = True) -> "SparseAutoencoder":
        threshold = getattr(self, "threshold", None)
        before = None if threshold is None else threshold.data
        super()._apply(fn, recurse)
        if before is not None and self.threshold.dtype.itemsize < 4:
            # In bfloat16 a threshold of 2 moves in steps of 0.016, and codes near it flip.
            self.threshold.data = before.to(self.threshold.device)
        return self

    def extra_repr(self) -> str:
        return f"{self.cfg.d_model} → {self.cfg.d_sae}, {self.cfg.activation}, k={self.cfg.k}"

    def units_of(self, x: Float[Tensor, "*n d"] | None) -> "TokenUnits | None":
        """What ``cfg.token_norm`` takes from each token; None where it takes nothing."""
        if self.cfg.token_norm == "none":
            return None
        from saev.sae.token_norm import token_units

        return token_units(x, self.cfg.token_norm, self.W_enc.dtype)

    def normalize(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """Raw to normalised units, in the dtype of the weights."""
        x, units = x.to(self.W_enc.dtype), self.units_of(x)
        if units is not None:
            x = (x - units.shift) / units.divisor
        return (x - self.mean) * self.scale

    def denormalize(
        self, x_bar: Float[Tensor, "*n d"], x: Float[Tensor, "*n d"] | None = None
    ) -> Float[Tensor, "*n d"]:
        """Normalised to raw units; with ``cfg.token_norm`` of the tokens ``x``."""
        y, units = x_bar / self.scale + self.mean, self.units_of(x)
        return y if units is None else y * units.length + units.shift

    def step_to_raw(
        self, step_bar: Float[Tensor, "*n d"], x: Float[Tensor, "*n d"] | None = None
    ) -> Float[Tensor, "*n d"]:
        """A difference in normalised units, in raw ones; with ``cfg.token_norm`` at the tokens ``x``."""
        step, units = step_bar / self.scale, self.units_of(x)
        return step if units is None else step * units.length

    def is_normal(self, x: Float[Tensor, "*n d"]) -> Bool[Tensor, "*n"]:
        """Where the L2 norm in raw units is at most ``cfg.max_norm``; everywhere if that is None.

        Artefact tokens of late blocks have norms tens of times the median: the dictionary is not
        trained on them and does not answer for them.
        """
        if self.cfg.max_norm is None:
            return torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device)
        # The square of one float16 coordinate can already overflow.
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return torch.linalg.vector_norm(wide, dim=-1) <= self.cfg.max_norm

    def pre_activations(self, x_bar: Float[Tensor, "*n d"]) -> Float[Tensor, "*n s"]:
        """W_enc(x̄ − b_dec) + b_enc, of inputs in normalised units."""
        return F.linear(x_bar - self.input_shift, self.W_enc, self.b_enc)

    @property
    def input_shift(self) -> Float[Tensor, " d"]:
        """What is subtracted before the encoder: b_dec, or zeros without ``subtract_b_dec``."""
        return self.b_dec if self.cfg.subtract_b_dec else torch.zeros_like(self.b_dec)

    def activate(self, pre: Float[Tensor, "*n s"]) -> Float[Tensor, "*n s"]:
        """Codes of pre-activations, each token on its own; formulae: ``saev.sae.activations``."""
        if self.cfg.activation == "relu":
            return pre.relu()
        if self.cfg.activation == "topk":
            return top_k(pre, int(self.cfg.k or 0))
        from saev.sae.activations import activation_of

        return activation_of(self)(pre)

    def encode(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n s"]:
        """Codes of raw activations."""
        return self.activate(self.pre_activations(self.normalize(x)))

    def decode(
        self, z: Float[Tensor, "*n s"], x: Float[Tensor, "*n d"] | None = None
    ) -> Float[Tensor, "*n d"]:
        """Raw activations of codes. ``x``, what they are codes of, is needed by dictionaries with
        ``token_norm`` or W_skip alone."""
        x_bar = z.to(self.W_dec.dtype) @ self.W_dec + self.b_dec
        if self.cfg.skip:
            from saev.sae.token_norm import given

            x_bar = x_bar + F.linear(self.normalize(given(x, "W_skip")), self.W_skip)
        return self.denormalize(x_bar, x)

    def reconstruct(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """decode(encode(x)) in x's dtype; tokens that are not normal come back unchanged."""
        x_hat = self.decode(self.encode(x), x).to(x.dtype)
        return torch.where(self.is_normal(x).unsqueeze(-1), x_hat, x)

    forward = reconstruct

    def set_statistics(
        self, mean: Float[Tensor, " d"], scale: float | int, max_norm: float | int | None
    ) -> None:
        """Fix the input normalisation (per-dimension mean and one scalar) and the norm limit.

        Raises:
            ValueError: the mean has another width, or the scale is not a positive number.
        """
        if mean.shape != (self.cfg.d_model,):
            raise ValueError(
                f"mean must have d_model={self.cfg.d_model} entries, got shape {tuple(mean.shape)}."
            )
        if not 0 < scale < float("inf"):
            raise ValueError(f"scale must be a positive finite number, got {scale}.")
        self.mean.copy_(mean)
        self.scale.fill_(scale)
        self.cfg = replace(self.cfg, max_norm=max_norm)

    def untrained(
        self, seed: int = 0, acts: Float[Tensor, "n d"] | None = None
    ) -> "SparseAutoencoder":
        """A fresh dictionary of the same shape, sparsity and normalisation: the null model.

        Each token keeps its ``latents_per_token`` largest codes, since thresholds mean nothing for
        other atoms, times the ``best_gain`` on raw ``acts``.
        """
        from saev.sae.untrained import untrained_like

        return untrained_like(self, seed, acts)

    def save_pretrained(self, directory: str | Path) -> Path:
        """Write ``config.json`` and ``weights.safetensors``, each whole or not at all; the folder."""
        from saev.sae.pretrained import write_folder

        return write_folder(self.cfg, self.state_dict(), directory)

    @classmethod
    def from_pretrained(
        cls, source: str | Path, device: str | torch.device = "cpu"
    ) -> "SparseAutoencoder":
        """The same dictionary bit for bit, from a folder or a hub id; in eval mode, without gradients.

        Raises:
            UserError: nothing there, a pickle, a damaged file, a newer format, shapes that
                contradict the config, a hub that does not answer.
        """
        from saev.sae.pretrained import load

        return load(cls, source).to(device).eval().requires_grad_(False)

    def push_to_hub(self, repo_id: str, private: bool = False) -> str:
        """Upload to the hub, return the repository's URL; UserError where the hub refuses."""
        from saev.sae.pretrained import push

        return push(self.cfg, self.state_dict(), repo_id, private)
