"""The dictionary: x̄ = scale·(x − mean), z = act(W_enc(x̄ − b_dec) + b_enc), x̄̂ = z·W_dec + b_dec.

All of inference is in this file: normalisation, the five activations, decoding.

Shapes: `b` tokens, `d` d_model, `s` d_sae; `*n` any leading axes. A bar marks normalised units.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from saev.sae.config import SAEConfig
from saev.sae.initialize import best_gain, initialize_, latents_per_token, some_normal
from saev.sae.sparse import largest


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
        """Codes of pre-activations, each token on its own.

        - relu: z = max(pre, 0).
        - topk: that at the k largest pre-activations of each token, 0 elsewhere.
        - jump_relu: z = pre where pre > max(θ, 0), else 0, with a trained θ for each latent
          (Rajamanoharan et al. 2024, arXiv 2407.14435, eq. 4; θ itself is the parameter).
        - batch_topk: the same with one measured θ, so that no token depends on the others of its
          batch (Bussmann et al. 2024, arXiv 2412.06410, sec. 3).
        - gated: z = max(exp(r_mag)·(pre − b_enc) + b_mag, 0) where pre > 0, else 0; b_enc is the
          gate's bias (Rajamanoharan et al. 2024, arXiv 2404.16014, eq. 6 and 7).
        """
        match self.cfg.activation:
            case "relu":
                return pre.relu()
            case "topk":
                return top_k(pre, int(self.cfg.k or 0))
            case "jump_relu" | "batch_topk":
                return torch.where(pre > self.threshold.clamp_min(0), pre, 0.0)
            case _:
                magnitude = (self.r_mag.exp() * (pre - self.b_enc) + self.b_mag).relu()
                return torch.where(pre > 0, magnitude, 0.0)

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
        acts = some_normal(self, acts)
        k = latents_per_token(self, acts)
        cfg = self.cfg if k is None else replace(self.cfg, activation="topk", k=k)
        fresh = SparseAutoencoder(cfg, torch.Generator().manual_seed(seed)).requires_grad_(False)
        fresh = fresh.to(self.W_enc.device, self.W_enc.dtype).eval()
        kept = self.extras if cfg.activation == self.cfg.activation else ()
        for name in ("mean", "scale", *kept):
            getattr(fresh, name).copy_(getattr(self, name))
        fresh.W_enc.mul_(best_gain(fresh, acts))
        return fresh

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
        from saev.sae.pretrained import read

        export = read(source)
        sae = cls(export.cfg, torch.Generator())
        export.check(sae.state_dict())
        sae.to(export.tensors["W_enc"].dtype).load_state_dict(export.tensors)
        return sae.to(device).eval().requires_grad_(False)

    def push_to_hub(self, repo_id: str, private: bool = False) -> str:
        """Upload to the hub, return the repository's URL; UserError where the hub refuses."""
        from saev.sae.pretrained import push

        return push(self.cfg, self.state_dict(), repo_id, private)


def top_k(pre: Float[Tensor, "*n s"], k: int) -> Float[Tensor, "*n s"]:
    """max(pre, 0) at the k largest entries of each token, 0 elsewhere.

    Source: Gao et al. 2024 (arXiv 2406.04093), eq. 2, with the ReLU of their released models.
    """
    rows = pre.reshape(-1, pre.shape[-1])
    at = largest(rows.detach(), k)[1]
    return torch.zeros_like(rows).scatter_(1, at, rows.gather(1, at).relu()).view_as(pre)
