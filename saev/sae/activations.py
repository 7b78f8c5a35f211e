"""From pre-activations to codes, as they are at inference. A variant is a class here.

An activation has no tensors of its own: what it adds to a dictionary (a threshold, say) it declares
in ``extras`` and gets back when called, so that all tensors of a dictionary lie side by side in the
state dict and in the exported file.

Shapes: any leading axes, then `s` latents.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from saev.sae.config import SAEConfig


class Extra(NamedTuple):
    """A tensor that an activation adds to a dictionary."""

    start: Tensor
    """Value in a new dictionary."""
    trained: bool
    """A parameter; otherwise it is measured on data."""


class Activation:
    """Maps pre-activations to non-negative codes of the same shape."""

    needs: tuple[str, ...] = ()
    """Which of the dictionary's tensors it is called with."""

    def extras(self, d_sae: int) -> dict[str, Extra]:
        """The tensors it adds to a dictionary, by name."""
        return {}

    def __call__(self, pre: Float[Tensor, "*n s"], **tensors: Tensor) -> Float[Tensor, "*n s"]:
        raise NotImplementedError


class ReLU(Activation):
    """z = max(pre, 0)."""

    def __call__(self, pre: Float[Tensor, "*n s"]) -> Float[Tensor, "*n s"]:
        return pre.relu()


class TopK(Activation):
    """z = max(pre, 0) at the k largest pre-activations of each token, 0 elsewhere.

    Source: Gao et al. 2024 (arXiv 2406.04093), eq. 2, with the ReLU of their released models.
    """

    def __init__(self, k: int) -> None:
        self.k = k

    def __call__(self, pre: Float[Tensor, "*n s"]) -> Float[Tensor, "*n s"]:
        values, indices = pre.topk(self.k, dim=-1, sorted=False)
        return torch.zeros_like(pre).scatter(-1, indices, values.relu())


class JumpReLU(Activation):
    """z = pre where pre > max(threshold, 0), else 0.

    With a trained threshold for each latent: Rajamanoharan et al. 2024 (arXiv 2407.14435), eq. 4,
    the threshold itself being the parameter. With one measured threshold for all: what BatchTopK
    becomes at inference (Bussmann et al. 2024, arXiv 2412.06410, sec. 3), where no token may depend
    on the others of its batch.
    """

    needs = ("threshold",)

    def __init__(self, shared: bool) -> None:
        self.shared = shared

    def extras(self, d_sae: int) -> dict[str, Extra]:
        start = torch.zeros(()) if self.shared else torch.zeros(d_sae)
        return {"threshold": Extra(start, trained=not self.shared)}

    def __call__(
        self, pre: Float[Tensor, "*n s"], threshold: Float[Tensor, "..."]
    ) -> Float[Tensor, "*n s"]:
        return torch.where(pre > threshold.clamp_min(0), pre, 0.0)


class Gated(Activation):
    """z = max(exp(r_mag)·(pre − b_enc) + b_mag, 0) where pre > 0, else 0.

    ``pre`` holds the gate's pre-activations, whose bias is b_enc; the magnitude shares its weights
    up to a factor per latent. Source: Rajamanoharan et al. 2024 (arXiv 2404.16014), eq. 6 and 7.
    """

    needs = ("b_enc", "r_mag", "b_mag")

    def extras(self, d_sae: int) -> dict[str, Extra]:
        return {
            "r_mag": Extra(torch.zeros(d_sae), trained=True),
            "b_mag": Extra(torch.zeros(d_sae), trained=True),
        }

    def __call__(
        self,
        pre: Float[Tensor, "*n s"],
        b_enc: Float[Tensor, " s"],
        r_mag: Float[Tensor, " s"],
        b_mag: Float[Tensor, " s"],
    ) -> Float[Tensor, "*n s"]:
        magnitude = (r_mag.exp() * (pre - b_enc) + b_mag).relu()
        return torch.where(pre > 0, magnitude, 0.0)


def make_activation(cfg: SAEConfig) -> Activation:
    """The activation a config asks for, in its inference form."""
    match cfg.activation:
        case "relu":
            return ReLU()
        case "topk":
            return TopK(int(cfg.k or 0))
        case "batch_topk":
            return JumpReLU(shared=True)
        case "jump_relu":
            return JumpReLU(shared=False)
        case _:
            return Gated()
