"""Products with sparse codes: a few (token, latent) pairs in place of all, with gradients.

    y = Σ_j z_j·W_dec[i_j] + b_dec                an embedding bag
    ∂L/∂z_j = ⟨∂L/∂y, W_dec[i_j]⟩                 a dot product for each pair
    ∂L/∂W_dec = Zᵀ·∂L/∂y,  ∂L/∂W_enc = Vᵀ·(x − b_dec)   bags over the pairs sorted by latent

Shapes: `b` tokens, `d` d_model, `s` d_sae, `k` active; `bk` all chosen (token, latent) pairs.
"""

import functools
import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

GRADIENT_BLOCK_ELEMENTS = 2**18
"""Entries of a gradient written at once: 1 MB, which stays in the cache."""


class GradientMemory:
    """Memory of last step's gradients, which this step's are written to.

    Tensors as large as a dictionary go back to the system when they are freed, and the next ones are
    faulted in page by page: on a CPU a ninth of the time of a step with 24,576 latents and 1,024 tokens.
    On a GPU torch keeps memory itself.
    """

    def __init__(self) -> None:
        self._kept: list[Tensor] = []
        self._n_lent = 0

    def take(self, n_rows: int, like: Float[Tensor, "b d"]) -> Float[Tensor, "s d"]:
        """Memory for n_rows × d numbers, whose values are anything."""
        self._n_lent += 1
        shape = n_rows, like.shape[1]
        for place, one in enumerate(self._kept):
            if (one.shape, one.dtype, one.device) == (shape, like.dtype, like.device):
                return self._kept.pop(place)
        return like.new_empty(shape)

    def give_back(self, grads: Iterable[Tensor]) -> None:
        """Keeps no more of the gradients than were asked for since the last time."""
        self._kept = [one for one in grads if one.dim() == 2][: self._n_lent]
        self._n_lent = 0


class SparseSupport:
    """The chosen latents of a batch, and the same pairs sorted by latent (once, when asked for).

    Args:
        held_bk: which of the pairs count, where rows are of unequal length; the values at the others
            are 0. None: all.
        memory: where gradients of weights are written to; None: to new tensors.
    """

    def __init__(
        self,
        indices_bk: Int[Tensor, "b k"],
        d_sae: int,
        held_bk: Bool[Tensor, "b k"] | None = None,
        memory: GradientMemory | None = None,
    ) -> None:
        self.indices_bk = indices_bk
        self.d_sae = d_sae
        self.held_bk = held_bk
        self.memory = memory
        self._by_latent: tuple[Tensor, Tensor, Tensor] | None = None

    def restrict(self, chosen_bk: Bool[Tensor, "b k"]) -> "SparseSupport":
        """The pairs of this support that are also chosen."""
        held = chosen_bk if self.held_bk is None else chosen_bk & self.held_bk
        return SparseSupport(self.indices_bk, self.d_sae, held, self.memory)

    def split(self, group_bk: Int[Tensor, "b k"], n: int) -> "SparseSupport":
        """The pairs of each of n groups in rows of their own, b rows a group."""
        groups = torch.arange(n, device=group_bk.device)[:, None, None]
        held_gbk = group_bk == groups
        if self.held_bk is not None:
            held_gbk &= self.held_bk
        indices_gbk = self.indices_bk.expand_as(held_gbk)
        return SparseSupport(
            indices_gbk.flatten(0, 1), self.d_sae, held_gbk.flatten(0, 1), self.memory
        )

    def _sort(self) -> tuple[Tensor, Tensor, Tensor]:
        if self._by_latent is None:
            k = self.indices_bk.shape[1]
            pairs = self.indices_bk.flatten()
            if self.held_bk is None:
                latents, order = torch.sort(pairs, stable=True)
            else:
                at = self.held_bk.flatten().nonzero().squeeze(1)
                latents, order = torch.sort(pairs[at], stable=True)
                order = at[order]
            bounds = torch.arange(self.d_sae, device=latents.device)
            starts = torch.searchsorted(latents, bounds)
            self._by_latent = order, order.div(k, rounding_mode="floor"), starts
        return self._by_latent

    def product(
        self, values_bk: Float[Tensor, "b k"], rows_sd: Float[Tensor, "s d"]
    ) -> Float[Tensor, "b d"]:
        """V·rows for the sparse b × s matrix V, with a gradient to the values."""
        # In float32 no faster within a step, and equal but for the last bits.
        if has_pair_products(rows_sd) and torch.is_autocast_enabled("cpu"):
            return _Product.apply(values_bk, rows_sd, self)
        return self._bags(values_bk, rows_sd)

    def _bags(
        self, values_bk: Float[Tensor, "b k"], rows_sd: Float[Tensor, "s d"]
    ) -> Float[Tensor, "b d"]:
        if self.held_bk is None:
            return F.embedding_bag(
                self.indices_bk, rows_sd, mode="sum", per_sample_weights=values_bk
            )
        counts = self.held_bk.sum(1)
        return F.embedding_bag(
            self.indices_bk[self.held_bk],
            rows_sd,
            counts.cumsum(0) - counts,
            mode="sum",
            per_sample_weights=values_bk.masked_select(self.held_bk),
        )

    def transposed_product(
        self,
        values_bk: Float[Tensor, "b k"],
        rows_nd: Float[Tensor, "n d"],
        row_of_bk: Int[Tensor, "b k"] | None = None,
    ) -> Float[Tensor, "s d"]:
        """Vᵀ·rows for the sparse b × s matrix V that holds ``values`` at the chosen pairs.

        The order of summation is fixed, so two runs agree bit for bit.

        Args:
            row_of_bk: which of n rows each pair takes; None: that of its token.
        """
        order, tokens, starts = self._sort()
        if row_of_bk is not None:
            tokens = row_of_bk.flatten()[order]
        values = values_bk.flatten()[order]
        if self.memory is None or rows_nd.device.type != "cpu":
            return F.embedding_bag(tokens, rows_nd, starts, mode="sum", per_sample_weights=values)
        whole = self.memory.take(self.d_sae, rows_nd)
        step = max(1, GRADIENT_BLOCK_ELEMENTS // rows_nd.shape[1])
        bounds = [*starts[::step].tolist(), len(tokens)]
        for block, bags, (first, last) in zip(
            whole.split(step), starts.split(step), pairwise(bounds), strict=True
        ):
            here = slice(first, last)
            block.copy_(
                F.embedding_bag(
                    tokens[here], rows_nd, bags - first, mode="sum", per_sample_weights=values[here]
                )
            )
        return whole


def has_pair_products(rows_sd: Float[Tensor, "s d"]) -> bool:
    """Whether ``pair_products`` takes rows of this kind."""
    return rows_sd.device.type == "cpu" and rows_sd.dtype in (torch.float32, torch.float64)


def pair_products(
    left_bd: Float[Tensor, "b d"],
    rows_sd: Float[Tensor, "s d"],
    indices_bk: Int[Tensor, "b k"],
    held_bk: Bool[Tensor, "b k"] | None = None,
) -> Float[Tensor, "b k"]:
    """⟨left_t, rows[i]⟩ for each pair (t, i), without gradients; 0 where ``held`` is false.

    Six times as fast as the same dot products by way of gathered rows, which are written and read again;
    on a CPU alone, see ``has_pair_products``.
    """
    b, k = indices_bk.shape
    if held_bk is None:
        ends = torch.arange(0, b * k + 1, k)
        return ragged_products(left_bd, rows_sd, ends, indices_bk.flatten()).view(b, k)
    ends = F.pad(held_bk.sum(1).cumsum(0), (1, 0))
    found = ragged_products(left_bd, rows_sd, ends, indices_bk[held_bk])
    return left_bd.new_zeros(b, k).masked_scatter_(held_bk, found)


def ragged_products(
    left_bd: Float[Tensor, "b d"],
    rows_sd: Float[Tensor, "s d"],
    ends: Int[Tensor, " b+1"],
    indices: Int[Tensor, " bk"],
) -> Float[Tensor, " bk"]:
    """``pair_products`` where row t is paired with ``indices[ends[t] : ends[t + 1]]``."""
    _hush()
    shape = (len(left_bd), len(rows_sd))
    pairs = torch.sparse_csr_tensor(ends, indices, left_bd.new_zeros(len(indices)), shape)
    return torch.sparse.sampled_addmm(pairs, left_bd, rows_sd.T, beta=0.0).values()


@functools.cache
def _hush() -> None:
    """Torch says once that compressed rows are a beta feature."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = torch.zeros(1, dtype=torch.long)
        torch.sparse_csr_tensor(torch.tensor([0, 1]), one, one.float(), (1, 1))


class _Product(torch.autograd.Function):
    """``SparseSupport.product`` with a gradient to the values."""

    @staticmethod
    def forward(ctx: Any, values_bk: Tensor, rows_sd: Tensor, support: SparseSupport) -> Tensor:
        ctx.save_for_backward(rows_sd)
        ctx.support = support
        return support._bags(values_bk, rows_sd)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (rows_sd,) = ctx.saved_tensors
        grad_bd = grads[0].contiguous()
        return (
            pair_products(grad_bd, rows_sd, ctx.support.indices_bk, ctx.support.held_bk),
            None,
            None,
        )


class _AttachEncoder(torch.autograd.Function):
    """Gives already computed pre-activations their gradients towards x, W_enc and b_enc."""

    @staticmethod
    def forward(
        ctx: Any,
        values_bk: Tensor,
        x_bd: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        b_dec: Tensor,
        support: SparseSupport,
    ) -> Tensor:
        ctx.save_for_backward(x_bd, W_enc, b_dec)
        ctx.support = support
        return values_bk.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_bk,) = grads
        x_bd, W_enc, b_dec = ctx.saved_tensors
        indices = ctx.support.indices_bk
        grad_x = None
        if ctx.needs_input_grad[1]:
            grad_x = F.embedding_bag(indices, W_enc, mode="sum", per_sample_weights=grad_bk)
        grad_W = ctx.support.transposed_product(grad_bk, x_bd - b_dec)
        grad_b = grad_bk.new_zeros(W_enc.shape[0])
        grad_b.index_add_(0, indices.flatten(), grad_bk.flatten())
        # Summed over the batch before the product: one row times W_enc instead of b rows.
        return None, grad_x, grad_W, grad_b, -(grad_b @ W_enc), None


class _AttachDecoder(torch.autograd.Function):
    """Gives an already computed bag its gradient towards W_dec."""

    @staticmethod
    def forward(
        ctx: Any, y_bd: Tensor, z_bk: Tensor, W_dec: Tensor, support: SparseSupport
    ) -> Tensor:
        ctx.save_for_backward(z_bk)
        ctx.support = support
        return y_bd.view_as(y_bd)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_bd,) = grads
        (z_bk,) = ctx.saved_tensors
        return grad_bd, None, ctx.support.transposed_product(z_bk, grad_bd), None


def attach_encoder(
    values_bk: Float[Tensor, "b k"],
    x_bd: Float[Tensor, "b d"],
    W_enc: Float[Tensor, "s d"],
    b_enc: Float[Tensor, " s"],
    b_dec: Float[Tensor, " d"],
    support: SparseSupport,
) -> Float[Tensor, "b k"]:
    """Pre-activations that were selected without gradients, now with them."""
    return _AttachEncoder.apply(values_bk, x_bd, W_enc, b_enc, b_dec, support)


def decode_topk(
    z_bk: Float[Tensor, "b k"],
    W_dec: Float[Tensor, "s d"],
    b_dec: Float[Tensor, " d"],
    support: SparseSupport,
) -> Float[Tensor, "b d"]:
    """Σ_j z_j·W_dec[i_j] + b_dec."""
    y_bd = support.product(z_bk, W_dec.detach())
    return _AttachDecoder.apply(y_bd, z_bk.detach(), W_dec, support) + b_dec


def narrowed(tensor: Tensor) -> Tensor:
    """The tensor in the dtype that autocast takes products in, where it is on."""
    device = tensor.device.type
    if not torch.is_autocast_enabled(device):
        return tensor
    return tensor.to(torch.get_autocast_dtype(device))


def wide_on_cpu(device: torch.device) -> AbstractContextManager[object]:
    """Within it a CPU multiplies in float32 also under autocast, for what is measured rather than trained;
    a GPU as autocast says."""
    return torch.autocast("cpu", enabled=False) if device.type == "cpu" else nullcontext()


def wide_product(x: Float[Tensor, "b d"], W: Float[Tensor, "s d"]) -> Float[Tensor, "b s"]:
    """x·Wᵀ in float32, of narrower factors.

    Rounded to bfloat16 many of the largest pre-activations would tie, and which of them is chosen
    would depend on the path.
    """
    if x.is_cuda:
        return torch.mm(x, W.T, out_dtype=torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        return x.float() @ W.float().T


class _WideProduct(torch.autograd.Function):
    """``wide_product`` of narrowed factors; the products of its gradient are narrow, too."""

    @staticmethod
    def forward(ctx: Any, x_bd: Tensor, W: Tensor) -> Tensor:
        ctx.dtypes = x_bd.dtype, W.dtype
        x_bd, W = narrowed(x_bd), narrowed(W)
        ctx.save_for_backward(x_bd, W)
        return wide_product(x_bd, W)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_bd, W = ctx.saved_tensors
        grad = grads[0].to(W.dtype)
        return (grad @ W).to(ctx.dtypes[0]), (grad.T @ x_bd).to(ctx.dtypes[1])


def wide_pre_activations(
    x_bd: Float[Tensor, "b d"], W_enc: Float[Tensor, "s d"], b_enc: Float[Tensor, " s"]
) -> Float[Tensor, "b s"]:
    """x·W_encᵀ + b_enc with gradients; where autocast narrows the factors, in float32 all the same.

    On a CPU, where a wide product of narrow factors is no faster than one of wide ones, they stay wide.
    """
    kind = x_bd.device.type
    if kind == "cpu" or not torch.is_autocast_enabled(kind):
        with torch.autocast(kind, enabled=False):
            return F.linear(x_bd, W_enc, b_enc)
    return _WideProduct.apply(x_bd, W_enc) + b_enc
