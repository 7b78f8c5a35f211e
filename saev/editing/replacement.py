"""Replacement of activations: what a backbone sees in place of its own, one function per control arm.

Every function maps the residual stream (b, t, d) at a tap to the stream that goes on, and touches
only the chosen tokens of normal norm; all others pass through bit for bit.
"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saev.backbones.taps import Edit
from saev.editing.tokens import on_chosen_tokens
from saev.sae import SparseAutoencoder

ARMS = ("clean", "reconstructed", "mean_ablated", "zero_ablated", "untrained")


def control_arms(
    sae: SparseAutoencoder,
    untrained: SparseAutoencoder,
    mean_d: Float[Tensor, " d"],
    positions: Int[Tensor, " p"],
) -> Mapping[str, Edit]:
    """The four replacements a reconstruction is judged by, keyed by their name in ``metrics.json``.

    ``reconstructed``: decode(encode(x)). ``untrained``: the same by a dictionary of the same form
    with random atoms. ``mean_ablated``: the mean activation ``mean_d`` of the training tokens, the
    reference of ``kl_recovered`` (zero ablation leaves the data's support, so it flatters).
    ``zero_ablated``: zeros.
    """
    replacements: dict[str, Callable[[Tensor], Tensor]] = {
        "reconstructed": lambda x: sae.decode(sae.encode(x), x),
        "mean_ablated": lambda x: mean_d.to(x).expand_as(x),
        "zero_ablated": torch.zeros_like,
        "untrained": lambda x: untrained.decode(untrained.encode(x), x),
    }
    return {
        name: on_chosen_tokens(sae, positions, replace) for name, replace in replacements.items()
    }
