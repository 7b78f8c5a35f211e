"""Detecting and resampling dead latents.

Shapes: `n` latents to replace, `d` d_model, `s` d_sae.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saev.sae.model import SparseAutoencoder


def advance_since_fired(
    since: Int[Tensor, " s"], last_firing: Int[Tensor, " s"], n_tokens: int
) -> Int[Tensor, " s"]:
    """Tokens seen since each latent last fired, after ``n_tokens`` more.

    Exact to the token, so the count does not depend on how the stream was cut into batches.

    Args:
        last_firing: position of the last firing among the new tokens, -1 for none.
    """
    return torch.where(last_firing >= 0, n_tokens - 1 - last_firing, since + n_tokens)


def dead_latents(since: Int[Tensor, " s"], dead_after_tokens: int) -> Bool[Tensor, " s"]:
    """Which latents have not fired on the last ``dead_after_tokens`` tokens."""
    return since >= dead_after_tokens


def draw_inputs(
    inputs: Float[Tensor, "p d"],
    losses: Float[Tensor, " p"],
    n: int,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n d"]:
    """n rows of a pool with probability proportional to the squared loss, without repeats if able.

    Source: Bricken et al. 2023, Towards Monosemanticity, "Neuron Resampling".
    """
    weights = losses.double().cpu().square()
    if not bool(weights.sum() > 0):
        weights = torch.ones_like(weights)
    n_possible = int((weights > 0).sum())
    chosen = torch.multinomial(weights, n, replacement=n > n_possible, generator=generator)
    return inputs[chosen.to(inputs.device)]


@torch.no_grad()
def resample_rows(
    sae: SparseAutoencoder,
    optimizer: torch.optim.Optimizer | None,
    ids: Int[Tensor, " n"],
    inputs: Float[Tensor, "n d"],
    alive: Bool[Tensor, " s"],
    encoder_scale: float,
) -> None:
    """Point the latents ``ids`` at ``inputs`` and forget their optimiser state, in place.

    The atom becomes the direction of x̄ − b_dec with the mean norm of the living atoms (1 unless they
    are free), the encoder row the same direction with ``encoder_scale`` times the mean norm of the
    living encoder rows, the bias 0, a threshold of its own the mean of the living ones'. Every state
    tensor shaped like its parameter (Adam's two moments) is zeroed in exactly these rows. Source:
    Bricken et al. 2023, "Neuron Resampling".

    Args:
        inputs: raw activations, one for each id.
        alive: whose atoms and encoder rows set the norms; all of them if none is alive.
    """
    directions = sae.normalize(inputs) - sae.b_dec
    norms = torch.linalg.vector_norm(directions, dim=1, keepdim=True)
    directions = directions / norms.clamp_min(1e-12)
    living = alive if bool(alive.any()) else torch.ones_like(alive)
    sae.W_dec[ids] = directions * mean_norm(sae.W_dec[living])
    sae.W_enc[ids] = directions * (encoder_scale * mean_norm(sae.W_enc[living]))
    sae.b_enc[ids] = 0.0
    extras = {name: p for name, p in sae.named_parameters() if name in sae.extras}
    for name, tensor in extras.items():
        tensor[ids] = tensor[living].mean() if name == "threshold" else 0.0
    if optimizer is None:
        return
    for parameter in (sae.W_enc, sae.b_enc, sae.W_dec, *extras.values()):
        for state in optimizer.state.get(parameter, {}).values():
            if isinstance(state, Tensor) and state.shape == parameter.shape:
                state[ids] = 0.0


def mean_norm(rows: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Mean L2 norm of the rows."""
    return torch.linalg.vector_norm(rows, dim=1).mean()
