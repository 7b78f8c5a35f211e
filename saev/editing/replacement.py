"""What a backbone sees in place of its own activations: one function per control arm.

Every function maps the residual stream (b, t, d) at a tap to the stream that goes on, and touches
only the chosen tokens of normal norm; all others pass through bit for bit.
"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saev.sae import SparseAutoencoder

Edit = Callable[[Tensor], Tensor]

ARMS = ("clean", "reconstructed", "mean_ablated", "zero_ablated", "untrained")


def on_chosen_tokens(
    sae: SparseAutoencoder, positions: Int[Tensor, " p"], replace: Callable[[Tensor], Tensor]
) -> Edit:
    """An edit that applies ``replace`` to the tokens at ``positions`` whose norm is normal.

    ``replace`` maps activations (n, d) to activations (n, d) in raw units.
    """

    def edit(acts_btd: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        chosen_bpd = acts_btd[:, positions]
        normal_bp1 = sae.is_normal(chosen_bpd).unsqueeze(-1)
        new_bpd = replace(chosen_bpd.flatten(0, 1)).view_as(chosen_bpd).to(acts_btd.dtype)
        edited = acts_btd.clone()
        edited[:, positions] = torch.where(normal_bp1, new_bpd, chosen_bpd)
        return edited

    return edit


def control_arms(
    sae: SparseAutoencoder,
    untrained: SparseAutoencoder,
    mean_d: Float[Tensor, " d"],
    positions: Int[Tensor, " p"],
) -> Mapping[str, Edit]:
    """The four replacements a reconstruction is judged by, keyed by their name in ``metrics.json``.

    ``reconstructed``: decode(encode(x)). ``untrained``: the same by a dictionary of the same form
    with initial weights. ``mean_ablated``: the mean activation ``mean_d`` of the training tokens, the
    reference of ``kl_recovered`` (zero ablation leaves the data's support, so it flatters).
    ``zero_ablated``: zeros.
    """
    replacements: dict[str, Callable[[Tensor], Tensor]] = {
        "reconstructed": lambda x: sae.decode(sae.encode(x)),
        "mean_ablated": lambda x: mean_d.to(x).expand_as(x),
        "zero_ablated": torch.zeros_like,
        "untrained": lambda x: untrained.decode(untrained.encode(x)),
    }
    return {
        name: on_chosen_tokens(sae, positions, replace) for name, replace in replacements.items()
    }
