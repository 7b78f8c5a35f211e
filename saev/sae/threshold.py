"""BatchTopK: which codes of a batch are kept, and the threshold that replaces the batch later.

Shapes: `b` tokens, `d` d_model, `s` d_sae, `m` candidates a token.
"""

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from saev.sae.model import SparseAutoencoder
from saev.sae.products import wide_pre_activations

CHUNK_CODES = 2**24
"""Codes held at once while calibrating: 64 MB."""

FLOOR_TOKENS = 32
FLOOR_MARGIN = 1.75
"""BatchTopK looks at what would be kept with so many times k on so many of the tokens; where that
turns out too little, at everything that is positive."""


def kth_largest(values: Float[Tensor, "*n"], k: int) -> Float[Tensor, ""]:
    """The k-th largest of all values, whatever the shape; 0 where there are fewer."""
    flat = values.flatten()
    if k > len(flat):
        return flat.new_zeros(())
    return flat.kthvalue(len(flat) - k + 1).values


def batch_threshold(
    candidates: Float[Tensor, "*m"],
    n_tokens: int,
    k: float | int,
    gather: Callable[[Tensor], Tensor] = lambda values: values,
) -> Float[Tensor, ""]:
    """The smallest pre-activation BatchTopK keeps: the ⌊k·b + ½⌋-th largest positive one.

    Source: Bussmann et al. 2024 (arXiv 2412.06410), eq. 5.

    Args:
        candidates: at least all entries of this rank's batch that may be kept.
        n_tokens: tokens of this rank's batch.
        gather: joins tensors of all ranks, of whatever lengths, along the first axis, so that they
            choose as one.
    """
    every = gather(candidates[candidates > 0])
    n_all = int(gather(torch.tensor([n_tokens], device=candidates.device)).sum())
    tiny = torch.finfo(every.dtype).tiny  # only positive codes count
    return kth_largest(every, max(1, int(k * n_all + 0.5))).clamp_min(tiny)


@torch.no_grad()
def likely_floor(
    sae: SparseAutoencoder, x_bar: Float[Tensor, "b d"], k: int | float
) -> Float[Tensor, ""]:
    """A value that BatchTopK's threshold hardly ever lies below: found on some of the tokens.

    Only what lies above it has to be looked at: a few of the many pre-activations.
    """
    sample = x_bar[:: max(1, len(x_bar) // FLOOR_TOKENS)]
    pre = wide_pre_activations(sample - sae.input_shift, sae.W_enc, sae.b_enc)
    return kth_largest(pre, max(1, int(FLOOR_MARGIN * k * len(sample)))).clamp_min(0)


@torch.no_grad()
def threshold_for(
    sae: SparseAutoencoder, batches: Iterable[Tensor], k: float | int
) -> Float[Tensor, ""]:
    """The threshold above which k pre-activations a token lie on average, over this data.

    Exact: of n tokens precisely round(k·n) positive ones lie above it, and it is half-way to the
    next smaller one; 0 where there are fewer.

    Args:
        batches: raw activations; tokens that are not normal are left out.

    Raises:
        ValueError: no normal token.
    """
    tokens = torch.cat([batch[sae.is_normal(batch)] for batch in batches])
    if len(tokens) == 0:
        raise ValueError("No token to calibrate the threshold on has a normal norm.")
    n_kept = max(1, int(k * len(tokens) + 0.5))
    largest = tokens.new_zeros(0, dtype=sae.W_enc.dtype)
    floor = 0.0
    for x in tokens.split(max(1, CHUNK_CODES // sae.cfg.d_sae)):
        pre = sae.pre_activations(sae.normalize(x))
        largest = torch.cat([largest, pre[pre > floor]])
        if len(largest) > n_kept:
            # One more than is kept: the threshold lies between the last two.
            largest = largest.topk(n_kept + 1, sorted=False).values
            floor = float(largest.min())
    if len(largest) <= n_kept:
        return largest.new_zeros(())
    return largest.topk(2, largest=False, sorted=False).values.mean()


@torch.no_grad()
def calibrate_threshold_(sae: SparseAutoencoder, batches: Iterable[Tensor]) -> Float[Tensor, ""]:
    """Set the shared threshold so that k codes a token are left on average over this data.

    A moving average over training batches lags behind a short run instead (measured on 200 steps:
    an L0 of 5 where 32 was asked for).

    Raises:
        ValueError: no shared threshold to set, or no normal token.
    """
    if sae.cfg.activation != "batch_topk" or sae.cfg.k is None:
        raise ValueError(
            f"activation must be batch_topk to calibrate a threshold, got {sae.cfg.activation!r}."
        )
    return sae.threshold.copy_(threshold_for(sae, batches, sae.cfg.k))
