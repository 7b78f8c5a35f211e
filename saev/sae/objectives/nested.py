"""Matryoshka and multi-TopK: several reconstructions of one choice of codes.

Shapes: `b` tokens, `d` d_model, `s` d_sae.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from saev.sae.config import TOPK_FAMILY, SAEConfig
from saev.sae.encode import BatchCodes, encode_normalized
from saev.sae.model import SparseAutoencoder
from saev.sae.objectives.objective import Objective, ObjectiveValue, Step, require, squared_error
from saev.sae.products import (
    GRADIENT_BLOCK_ELEMENTS,
    SparseSupport,
    decode_topk,
    has_pair_products,
    ragged_products,
)
from saev.sae.threshold import batch_threshold


class Matryoshka(Objective):
    """Σ_j w_j·‖x̄ − (Σ_{i < m_j} z_i·W_dec,i + b_dec)‖²: every prefix of the latents reconstructs.

    One choice of codes for all prefixes. w_j = 1/g by default, so that the loss has the scale of
    one reconstruction; the reference averages over a bias-only term besides, which has no part in
    the gradient of anything but b_dec. Source: Bussmann et al. 2025 (arXiv 2503.17547); prefixes
    drawn anew at every step after Nabeshima 2024, log-uniformly.

    Args:
        prefixes: ends of the prefixes as shares of d_sae, rising, the last one 1.
        n_random: so many prefixes drawn for each step instead; the whole is always one.
        narrowest: share of d_sae below which no prefix is drawn.
        weights: w_j for fixed prefixes.
    """

    activations = TOPK_FAMILY

    def __init__(
        self,
        prefixes: Sequence[float | int] | None = None,
        n_random: int | None = None,
        narrowest: float | int = 1 / 16,
        weights: Sequence[float | int] | None = None,
    ) -> None:
        super().__init__()
        if (prefixes is None) == (n_random is None):
            raise ValueError("Matryoshka: give one of prefixes and n_random, not both or neither.")
        ends = [1.0] if prefixes is None else list(prefixes)
        rising = all(a < b for a, b in zip([0, *ends], ends, strict=False))
        require(
            "Matryoshka: prefixes", rising and ends[-1:] == [1], ends, "rising shares that end in 1"
        )
        require(
            "Matryoshka: n_random",
            n_random is None or n_random >= 2,
            n_random,
            "at least 2 or null",
        )
        require("Matryoshka: narrowest", 0 < narrowest < 1, narrowest, "in (0, 1)")
        if weights is not None and (n_random is not None or len(weights) != len(ends)):
            raise ValueError(
                f"Matryoshka: weights must be one for each fixed prefix, got {list(weights)}."
            )
        self.prefixes = None if n_random is not None else ends
        self.n_random, self.narrowest = n_random, narrowest
        self.weights = None if weights is None else list(weights)

    def check(self, cfg: SAEConfig) -> None:
        super().check(cfg)
        share = self.narrowest if self.prefixes is None else self.prefixes[0]
        width = round(share * cfg.d_sae)
        if width < 1 or (cfg.k is not None and cfg.k > width):
            raise ValueError(
                f"k must not exceed the narrowest prefix of {width} latents, got {cfg.k}."
            )
        if self.prefixes and len(set(self.widths(cfg.d_sae, 0))) < len(self.prefixes):
            raise ValueError(
                f"Matryoshka: prefixes {self.prefixes} fall together at d_sae={cfg.d_sae}."
            )

    def widths(self, d_sae: int, seed: int) -> list[int]:
        """Ends of the prefixes in latents; the seed matters where they are drawn."""
        if self.prefixes is not None:
            return [round(share * d_sae) for share in self.prefixes]
        generator = torch.Generator().manual_seed(seed % 2**63)
        drawn = torch.rand((self.n_random or 2) - 1, generator=generator)
        shares = torch.exp(drawn * math.log(self.narrowest)) if len(drawn) else drawn
        return [*sorted(max(1, round(float(share) * d_sae)) for share in shares), d_sae]

    def forward(self, sae: SparseAutoencoder, step: Step) -> ObjectiveValue:
        # Each step draws anew; a resumed run and all ranks draw alike.
        widths = self.widths(sae.cfg.d_sae, step.seed * 1_000_003 + step.number)
        codes = encode_normalized(sae, step.x_bar, step.how)
        weights = self.weights or [1 / len(widths)] * len(widths)
        support, target = codes.support, step.target
        if support is not None and has_pair_products(step.W_dec) and not target.requires_grad:
            loss, x_hat, error_b = _PrefixErrors.apply(
                codes.values, step.W_dec, sae.b_dec, target, support, widths, weights
            )
            return ObjectiveValue(x_hat, codes, {"reconstruction": loss}, error_b)
        loss = torch.zeros((), device=step.x_bar.device, dtype=step.x_bar.dtype)
        x_hat, error_b = step.x_bar, step.x_bar[:, 0]
        for x_hat, weight in zip(
            prefix_reconstructions(codes, step.W_dec, sae.b_dec, widths), weights, strict=True
        ):
            error_b = squared_error(target, x_hat)
            loss = loss + weight * error_b.mean()
        return ObjectiveValue(x_hat, codes, {"reconstruction": loss}, error_b)


def prefix_reconstructions(
    codes: BatchCodes, W_dec: Float[Tensor, "s d"], b_dec: Float[Tensor, " d"], widths: list[int]
) -> list[Float[Tensor, "b d"]]:
    """Reconstruction by the first so many latents, for each width; every latent is decoded once."""
    if codes.support is None:
        firsts = [0, *widths]
        parts = torch.stack([codes.values[:, a:b] @ W_dec[a:b] for a, b in pairwise(firsts)])
    else:
        # All groups as one batch: one product, and one gradient as large as the dictionary.
        ends = torch.tensor(widths, device=W_dec.device)
        group_bk = torch.bucketize(codes.support.indices_bk, ends, right=True)
        support = codes.support.split(group_bk, len(widths))
        values = codes.values.repeat(len(widths), 1)
        y = decode_topk(values, W_dec, torch.zeros_like(b_dec), support)
        parts = y.unflatten(0, (len(widths), -1))
    return list(parts.cumsum(0) + b_dec)


class _PrefixErrors(torch.autograd.Function):
    """The loss of ``prefix_reconstructions``, its gradient found on the way, while a few tokens with all of
    their prefixes are in the cache: on a CPU.

    With r_p the error of prefix p, a code of group g has the gradient ⟨Σ_{p ≥ g} 2·w_p·r_p/b, W_dec[i]⟩:
    one dot product, as without prefixes. Gives the loss, x̂ and ‖r‖² of the whole, the last two without
    gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        values_bk: Tensor,
        W_dec: Tensor,
        b_dec: Tensor,
        target_bd: Tensor,
        support: SparseSupport,
        widths: list[int],
        weights: list[float],
    ) -> tuple[Tensor, Tensor, Tensor]:
        (b, d), k, n = target_bd.shape, values_bk.shape[1], len(widths)
        group_bk = torch.bucketize(support.indices_bk, torch.tensor(widths), right=True)
        # one row for each token and group, "m" in all
        row_of_bk = group_bk + torch.arange(0, b * n, n)[:, None]
        pairs = torch.arange(b * k)
        if support.held_bk is not None:
            pairs = support.held_bk.flatten().nonzero().squeeze(1)
        row_of_pair, order = row_of_bk.flatten()[pairs].sort(stable=True)
        pairs = pairs[order]
        ends = torch.searchsorted(row_of_pair, torch.arange(b * n + 1))
        indices, values = support.indices_bk.flatten()[pairs], values_bk.flatten()[pairs]
        scale = 2 / b * torch.tensor(weights, dtype=target_bd.dtype)[:, None]
        rows_md, x_hat, error_b = (target_bd.new_empty(s) for s in ((b * n, d), (b, d), (b,)))
        total = target_bd.new_zeros(n)
        at_once = max(1, GRADIENT_BLOCK_ELEMENTS // (n * d))
        for first in range(0, b, at_once):
            here = slice(first, min(b, first + at_once))
            at = slice(here.start * n, here.stop * n)
            begin, end = int(ends[at.start]), int(ends[at.stop])
            y_md = F.embedding_bag(
                indices[begin:end],
                W_dec.detach(),
                ends[at] - begin,
                mode="sum",
                per_sample_weights=values[begin:end],
            )
            y_bnd, r_bnd = y_md.view(-1, n, d), rows_md[at].view(-1, n, d)
            torch.add(y_bnd[:, 0], b_dec - target_bd[here], out=r_bnd[:, 0])
            for p in range(1, n):
                torch.add(r_bnd[:, p - 1], y_bnd[:, p], out=r_bnd[:, p])
            torch.add(r_bnd[:, -1], target_bd[here], out=x_hat[here])
            errors_bn = r_bnd.square().sum(-1)
            total += errors_bn.sum(0)
            error_b[here] = errors_bn[:, -1]
            r_bnd *= scale
            for p in range(n - 1, 0, -1):
                r_bnd[:, p - 1] += r_bnd[:, p]
        ctx.save_for_backward(values_bk, W_dec, rows_md, row_of_bk, pairs, ends, indices)
        ctx.support = support
        ctx.mark_non_differentiable(x_hat, error_b)
        return (scale[:, 0] / 2 * total).sum(), x_hat, error_b

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        values_bk, W_dec, rows_md, row_of_bk, pairs, ends, indices = ctx.saved_tensors
        of_loss, b = grads[0], len(values_bk)
        grad_values = torch.zeros_like(values_bk)
        found = ragged_products(rows_md, W_dec, ends, indices)
        grad_values.view(-1)[pairs] = found * of_loss
        grad_W = ctx.support.transposed_product(values_bk * of_loss, rows_md, row_of_bk)
        grad_b = rows_md.view(b, -1, rows_md.shape[1])[:, 0].sum(0) * of_loss
        return grad_values, grad_W, grad_b, None, None, None, None


class MultiTopK(Objective):
    """‖x̄ − x̄̂_k‖² + weight·‖x̄ − x̄̂_{factor·k}‖²: also reconstructs with more latents.

    Keeps codes meaningful beyond k and gives rarely chosen latents a gradient. Source: Gao et al.
    2024 (arXiv 2406.04093), sec. 5.4: L(k) + L(4k)/8.
    """

    activations = TOPK_FAMILY

    def __init__(self, factor: float | int, weight: float | int) -> None:
        super().__init__()
        require("MultiTopK: factor", factor > 1, factor, "greater than 1")
        require("MultiTopK: weight", weight > 0, weight, "positive")
        self.factor, self.weight = factor, weight

    def check(self, cfg: SAEConfig) -> None:
        super().check(cfg)
        if self.factor * (cfg.k or 0) > cfg.d_sae:
            raise ValueError(
                f"k times the factor of MultiTopK must not exceed d_sae={cfg.d_sae}, "
                f"got {cfg.k} × {self.factor}."
            )

    def forward(self, sae: SparseAutoencoder, step: Step) -> ObjectiveValue:
        k = sae.cfg.k or 0
        wide = encode_normalized(sae, step.x_bar, step.how, self.factor * k)
        codes = narrow(wide, k, sae.cfg.activation, step)
        x_hat = codes.decode(step.W_dec, sae.b_dec)
        error_b = squared_error(step.target, x_hat)
        wide_error_b = squared_error(step.target, wide.decode(step.W_dec, sae.b_dec))
        terms = {"reconstruction": error_b.mean(), "multi": self.weight * wide_error_b.mean()}
        return ObjectiveValue(x_hat, codes, terms, error_b)


def narrow(wide: BatchCodes, k: float | int, activation: str, step: Step) -> BatchCodes:
    """The codes that a smaller k keeps of those that a larger one kept."""
    values = wide.values.detach()
    if activation == "batch_topk":
        threshold = batch_threshold(values, len(values), k, step.how.gather)
        return wide.keep(values >= threshold)._replace(threshold=threshold)
    chosen = values.topk(int(k), dim=-1, sorted=False).indices
    return wide.keep(torch.zeros_like(values, dtype=torch.bool).scatter(-1, chosen, True))
