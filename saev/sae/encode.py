"""Encoding in training, in normalised units, with gradients: dense or sparse.

Training differs from inference in two activations: BatchTopK chooses over the batch, and the jump of
JumpReLU has a gradient.

Shapes: `b` tokens, `d` d_model, `s` d_sae, `k` active, `z` latents held per token (s, k, or a few k).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saev.sae.config import TOPK_FAMILY
from saev.sae.model import SparseAutoencoder
from saev.sae.products import (
    GradientMemory,
    SparseSupport,
    attach_encoder,
    decode_topk,
    wide_pre_activations,
)
from saev.sae.sparse import encode_topk, prefers_sparse, select_above, top_k

SPARSE_PER_K = 4
"""BatchTopK takes the sparse path where d_sae is large enough for so many times k: some tokens hold
several times the mean."""


SAMPLE_TOKENS = 32
"""Tokens that say whether few latents are active."""


def alone(values: Tensor) -> Tensor:
    """The values of all ranks where there is one."""
    return values


@dataclass(frozen=True)
class Encoding:
    """How training encodes."""

    bandwidth: float | int = 1.0
    """Width ε of the ramp that gives JumpReLU's thresholds their gradient, normalised units."""
    jump_to_input: bool = False
    """Whether the jump also has a gradient towards the pre-activation."""
    gather: Callable[[Tensor], Tensor] = alone
    """Joins tensors of all ranks along the first axis: BatchTopK chooses over the whole batch."""
    sparse: bool | None = None
    """Force a path; None takes the sparse one where ``prefers_sparse`` says so. Both give the same
    numbers up to rounding; the dense one is the reference."""
    memory: GradientMemory | None = None
    """Where the sparse path writes gradients of weights to."""


class BatchCodes(NamedTuple):
    """Codes of a batch, and what losses need to know of how they came about."""

    values: Float[Tensor, "b z"]
    """All codes (dense), or those of some latents (sparse); 0 where a latent is off."""
    support: SparseSupport | None
    """Which latents the values belong to; None when they are all of them in order."""
    pre: Float[Tensor, "b z"] | None
    """Pre-activations of the same latents, where the activation is no TopK."""
    threshold: Float[Tensor, ""] | None
    """The smallest code that BatchTopK kept in this batch."""
    d_sae: int

    @property
    def indices(self) -> Int[Tensor, "b z"] | None:
        """Of which latent each value is; None when they are all of them in order."""
        return None if self.support is None else self.support.indices_bk

    def of_latents(self, row: Float[Tensor, " s"]) -> Float[Tensor, "*z"]:
        """What belongs to the latents of the values: of each, or all of them in order."""
        if self.indices is None:
            return row
        return row.index_select(0, self.indices.flatten()).view_as(self.indices)

    def keep(self, chosen: Bool[Tensor, "b z"]) -> "BatchCodes":
        """The same with the other values set to 0."""
        support = None if self.support is None else self.support.restrict(chosen)
        return self._replace(values=torch.where(chosen, self.values, 0.0), support=support)

    def decode(self, W_dec: Float[Tensor, "s d"], b_dec: Float[Tensor, " d"]) -> Tensor:
        """Σ_i z_i·W_dec[i] + b_dec."""
        if self.support is None:
            return self.values @ W_dec + b_dec
        return decode_topk(self.values, W_dec, b_dec, self.support)

    def firing_counts(self) -> Int[Tensor, " s"]:
        """In how many of the tokens each latent is positive."""
        if self.indices is None:
            return (self.values > 0).sum(0)
        firing = (self.values > 0).long()
        return firing.new_zeros(self.d_sae).index_add_(0, self.indices.flatten(), firing.flatten())

    def last_firing(self) -> Int[Tensor, " s"]:
        """Row of the last token each latent is positive on; -1 where there is none."""
        # 32 bits: on the dense path this is as large as the codes.
        rows = torch.arange(len(self.values), device=self.values.device, dtype=torch.int32)
        fired_at = torch.where(self.values > 0, rows.unsqueeze(1), -1)
        if self.indices is None:
            return fired_at.amax(0).long()
        none = fired_at.new_full((self.d_sae,), -1)
        return none.scatter_reduce(0, self.indices.flatten(), fired_at.flatten(), "amax").long()


def encode_normalized(
    sae: SparseAutoencoder,
    x_bar: Float[Tensor, "b d"],
    how: Encoding | None = None,
    k: int | float | None = None,
) -> BatchCodes:
    """BatchCodes of normalised inputs, with gradients to every parameter.

    Args:
        k: another number of latents per token than the config's, for the TopK family.
    """
    how = how or Encoding()
    cfg = sae.cfg
    if cfg.activation in TOPK_FAMILY:
        k = k if k is not None else cfg.k or 0
        encode = _encode_topk if cfg.activation == "topk" else _encode_batch_topk
        return encode(sae, x_bar, how, k)
    return _encode_by_threshold(sae, x_bar, how)


def _is_sparse(how: Encoding, d_sae: int, width: int, device_type: str) -> bool:
    return prefers_sparse(d_sae, width, device_type) if how.sparse is None else how.sparse


def _pre_activations(sae: SparseAutoencoder, x_bar: Float[Tensor, "b d"]) -> Float[Tensor, "b s"]:
    return wide_pre_activations(x_bar - sae.input_shift, sae.W_enc, sae.b_enc)


def _encode_topk(
    sae: SparseAutoencoder, x_bar: Float[Tensor, "b d"], how: Encoding, k: int | float
) -> BatchCodes:
    d_sae, k = sae.cfg.d_sae, int(k)
    if _is_sparse(how, d_sae, k, x_bar.device.type):
        z, support = encode_topk(x_bar, sae.W_enc, sae.b_enc, sae.input_shift, k, how.memory)
        return BatchCodes(z, support, None, None, d_sae)
    return BatchCodes(top_k(_pre_activations(sae, x_bar), k), None, None, None, d_sae)


def _encode_batch_topk(
    sae: SparseAutoencoder, x_bar: Float[Tensor, "b d"], how: Encoding, k: int | float
) -> BatchCodes:
    from saev.sae.threshold import batch_threshold, likely_floor

    d_sae, shift = sae.cfg.d_sae, sae.input_shift
    sparse = _is_sparse(how, d_sae, max(1, int(SPARSE_PER_K * k)), x_bar.device.type)
    pre = None if sparse else _pre_activations(sae, x_bar)
    floor = likely_floor(sae, x_bar, k)
    while True:
        if pre is None:
            centred = (x_bar - shift).detach()
            values, indices, held = select_above(centred, sae.W_enc, sae.b_enc, floor)
        else:
            values, indices, held = pre.detach(), None, None
        threshold = batch_threshold(values[values >= floor], len(x_bar), k, how.gather)
        if bool((how.gather(floor.unsqueeze(0)) <= threshold).all()):
            break
        floor = torch.zeros_like(floor)
    kept = values >= threshold if held is None else held & (values >= threshold)
    if indices is None:
        assert pre is not None
        return BatchCodes(torch.where(kept, pre, 0.0), None, None, threshold, d_sae)
    support = SparseSupport(indices, d_sae, kept, how.memory)
    z = attach_encoder(values, x_bar, sae.W_enc, sae.b_enc, shift, support).relu()
    return BatchCodes(torch.where(kept, z, 0.0), support, None, threshold, d_sae)


def _encode_by_threshold(
    sae: SparseAutoencoder, x_bar: Float[Tensor, "b d"], how: Encoding
) -> BatchCodes:
    """Activations that look at each latent alone; sparse where few come near their threshold."""
    d_sae, shift = sae.cfg.d_sae, sae.input_shift
    floor = _least_pre_activations(sae, how)
    if not _few_above(sae, x_bar, floor, how):
        pre = sae.pre_activations(x_bar)
        codes = BatchCodes(pre, None, pre, None, d_sae)
        return codes._replace(values=_activate(sae, codes, how))
    centred = (x_bar - shift).detach()
    values, indices, held = select_above(centred, sae.W_enc, sae.b_enc, floor)
    support = SparseSupport(indices, d_sae, held, how.memory)
    pre = attach_encoder(values, x_bar, sae.W_enc, sae.b_enc, shift, support)
    codes = BatchCodes(pre, support, pre, None, d_sae)
    return codes._replace(values=torch.where(held, _activate(sae, codes, how), 0.0))


@torch.no_grad()
def _least_pre_activations(sae: SparseAutoencoder, how: Encoding) -> Float[Tensor, "*s"]:
    """From where on a latent has a code or a gradient."""
    if sae.cfg.activation == "jump_relu":
        return sae.threshold.clamp_min(0) - how.bandwidth / 2
    return sae.b_enc.new_zeros(())


@torch.no_grad()
def _few_above(
    sae: SparseAutoencoder, x_bar: Float[Tensor, "b d"], floor: Float[Tensor, "*s"], how: Encoding
) -> bool:
    """Whether the sparse path pays, as a few of the tokens tell."""
    if how.sparse is not None:
        return how.sparse
    if x_bar.device.type != "cpu":  # counting would wait for the device
        return False
    some = x_bar[:: max(1, len(x_bar) // SAMPLE_TOKENS)]
    n_above = (sae.pre_activations(some) >= floor).sum()
    return prefers_sparse(sae.cfg.d_sae, float(n_above) / max(1, len(some)), "cpu")


def _activate(sae: SparseAutoencoder, codes: BatchCodes, how: Encoding) -> Float[Tensor, "b z"]:
    """Codes of the pre-activations that are held."""
    pre = codes.pre
    assert pre is not None
    match sae.cfg.activation:
        case "relu":
            return pre.relu()
        case "jump_relu":
            from saev.sae.straight_through import jump_relu

            threshold = codes.of_latents(sae.threshold)
            return jump_relu(pre, threshold, how.bandwidth, how.jump_to_input)
        case _:
            scale, gate, shift = map(codes.of_latents, (sae.r_mag.exp(), sae.b_enc, sae.b_mag))
            return torch.where(pre > 0, (scale * (pre - gate) + shift).relu(), 0.0)
