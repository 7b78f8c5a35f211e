"""The dictionary: x̄ = scale·(x − mean), z = act(W_enc(x̄ − b_dec) + b_enc), x̄̂ = z·W_dec + b_dec.

What an activation adds (a threshold, the magnitude's gain and bias) are tensors beside these.

Shapes: `b` tokens, `d` d_model, `s` d_sae; `*n` any leading axes. A bar marks normalised units.
"""

from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from saev.sae.activations import make_activation
from saev.sae.config import SAEConfig
from saev.sae.initialize import initialize_


class SparseAutoencoder(nn.Module):
    """A sparse autoencoder on raw activations, with its input normalisation inside.

    A new one has random unit atoms, encoder rows equal to the atoms, and zero biases.

    Args:
        cfg: shape, activation and origin.
        generator: source of the random atoms; None uses torch's global one.
    """

    mean: Tensor
    scale: Tensor
    threshold: Tensor  # JumpReLU: (s,); BatchTopK: one number
    r_mag: Tensor  # Gated
    b_mag: Tensor

    def __init__(self, cfg: SAEConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.cfg = cfg
        self.activation = make_activation(cfg)
        self.W_enc = nn.Parameter(torch.empty(cfg.d_sae, cfg.d_model))
        self.b_enc = nn.Parameter(torch.zeros(cfg.d_sae))
        self.W_dec = nn.Parameter(torch.empty(cfg.d_sae, cfg.d_model))
        self.b_dec = nn.Parameter(torch.zeros(cfg.d_model))
        self.register_buffer("mean", torch.zeros(cfg.d_model))
        self.register_buffer("scale", torch.ones(()))
        for name, extra in self.activation.extras(cfg.d_sae).items():
            if extra.trained:
                self.register_parameter(name, nn.Parameter(extra.start))
            else:
                self.register_buffer(name, extra.start)
        initialize_(self.W_enc, self.W_dec, "transpose", generator)

    def _apply(self, fn: Any, recurse: bool = True) -> "SparseAutoencoder":
        threshold = getattr(self, "threshold", None)
        before = None if threshold is None else threshold.data
        super()._apply(fn, recurse)
        if before is not None and self.threshold.dtype.itemsize < 4:
            # In bfloat16 a threshold of 2 moves in steps of 0.016, and codes near it flip.
            self.threshold.data = before.to(self.threshold.device)
        return self

    def normalize(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """Raw to normalised units, in the dtype of the weights."""
        return (x.to(self.W_enc.dtype) - self.mean) * self.scale

    def denormalize(self, x_bar: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """Normalised to raw units."""
        return x_bar / self.scale + self.mean

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
        """Codes of pre-activations, each token on its own."""
        return self.activation(pre, **{name: getattr(self, name) for name in self.activation.needs})

    def decode_normalized(self, z: Float[Tensor, "*n s"]) -> Float[Tensor, "*n d"]:
        """z·W_dec + b_dec, in normalised units."""
        return z @ self.W_dec + self.b_dec

    def encode(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n s"]:
        """Codes of raw activations."""
        return self.activate(self.pre_activations(self.normalize(x)))

    def decode(self, z: Float[Tensor, "*n s"]) -> Float[Tensor, "*n d"]:
        """Raw activations of codes."""
        return self.denormalize(self.decode_normalized(z.to(self.W_dec.dtype)))

    def reconstruct(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """decode(encode(x)) in x's dtype; tokens that are not normal come back unchanged."""
        x_hat = self.decode(self.encode(x)).to(x.dtype)
        return torch.where(self.is_normal(x).unsqueeze(-1), x_hat, x)

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        return self.reconstruct(x)

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

    def untrained(self, seed: int = 0) -> "SparseAutoencoder":
        """A fresh dictionary of the same shape, sparsity and normalisation: the null model.

        A threshold means nothing for other atoms, so where the number of latents per token is a
        mean or an aim the fresh one keeps the ⌈k⌉ largest of each token.
        """
        cfg = self.cfg
        if cfg.activation != "topk" and cfg.k is not None:
            cfg = replace(cfg, activation="topk", k=ceil(cfg.k))
        fresh = SparseAutoencoder(cfg, torch.Generator().manual_seed(seed))
        fresh = fresh.to(self.W_enc.device, self.W_enc.dtype)
        fresh.mean.copy_(self.mean)
        fresh.scale.copy_(self.scale)
        if cfg.activation == self.cfg.activation:
            for name in self.activation.extras(cfg.d_sae):
                getattr(fresh, name).data.copy_(getattr(self, name))
        return fresh.eval().requires_grad_(False)

    def save_pretrained(self, directory: str | Path) -> Path:
        """Write ``config.json`` and ``weights.safetensors``; see ``saev.sae.pretrained``."""
        from saev.sae.pretrained import save_pretrained

        return save_pretrained(self, directory)

    @classmethod
    def from_pretrained(
        cls, source: str | Path, device: str | torch.device = "cpu"
    ) -> "SparseAutoencoder":
        """Read a folder or a hub repository; see ``saev.sae.pretrained``."""
        from saev.sae.pretrained import from_pretrained

        return from_pretrained(source, device)

    def push_to_hub(self, repo_id: str, private: bool = False) -> str:
        """Upload to the Hugging Face hub and return its URL; see ``saev.sae.pretrained``."""
        from saev.sae.pretrained import push_to_hub

        return push_to_hub(self, repo_id, private)
