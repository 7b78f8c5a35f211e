"""TopK without dense codes: past the encoder product only the k chosen latents are touched.

A dense training step costs about 10·d·s operations a token, of which 2·d·s is the encoder product;
the rest concerns k of s latents and shrinks to about 8·d·k here.

    pre = (x − b_dec)·W_encᵀ + b_enc        dense, in row blocks, never kept
    v, i = top-k(pre)                       chosen latents
    y = Σ_j relu(v_j)·W_dec[i_j] + b_dec    an embedding bag

    ∂L/∂v_j = ⟨∂L/∂y, W_dec[i_j]⟩ where v_j > 0
    ∂L/∂W_dec = Zᵀ·∂L/∂y,  ∂L/∂W_enc = Vᵀ·(x − b_dec)   bags over the pairs sorted by latent

Shapes: `b` tokens, `d` d_model, `s` d_sae, `k` active; `bk` all chosen (token, latent) pairs.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

PRE_BLOCK_ELEMENTS = {"cpu": 2**22, "cuda": 2**29}
"""Pre-activations held at once: 16 MB on a CPU (larger blocks leave the cache and are returned to
the system after each step), 1 to 2 GB on a GPU."""

MIN_BLOCK_ROWS = 256
"""Rows of a block of a wide dictionary: each block reads all weights."""

GRADIENT_BLOCK_ELEMENTS = 2**18
"""Entries of a gradient written at once: 1 MB, which stays in the cache."""

GROUP = 8
"""Entries of a row compared before the search for the k largest; 4 and 16 were slower."""

SPARSE_RATIO = {"cpu": 16, "cuda": 384}
"""The sparse path is taken from this d_sae / k on: gathering is bound by memory, a dense product
by arithmetic, and a GPU has far more of the second. Measured, forward and backward: on Zen 4 cores
even at 24 with bfloat16 products, 2.6 times faster at 96; on an H200 with them slower at 192, 1.1
times faster at 384 and 1.7 times at 768."""


def prefers_sparse(d_sae: int, k: int | float, device_type: str) -> bool:
    """Whether the sparse path is the faster one; a device unknown here takes the dense path."""
    return d_sae >= SPARSE_RATIO.get(device_type, float("inf")) * k


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
        self, values_bk: Float[Tensor, "b k"], rows_bd: Float[Tensor, "b d"]
    ) -> Float[Tensor, "s d"]:
        """Vᵀ·rows for the sparse b × s matrix V that holds ``values`` at the chosen pairs.

        The order of summation is fixed, so two runs agree bit for bit.
        """
        order, tokens, starts = self._sort()
        values = values_bk.flatten()[order]
        if self.memory is None or rows_bd.device.type != "cpu":
            return F.embedding_bag(tokens, rows_bd, starts, mode="sum", per_sample_weights=values)
        whole = self.memory.take(self.d_sae, rows_bd)
        step = max(1, GRADIENT_BLOCK_ELEMENTS // rows_bd.shape[1])
        bounds = [*starts[::step].tolist(), len(tokens)]
        for block, bags, (first, last) in zip(
            whole.split(step), starts.split(step), pairwise(bounds), strict=True
        ):
            here = slice(first, last)
            block.copy_(
                F.embedding_bag(
                    tokens[here], rows_bd, bags - first, mode="sum", per_sample_weights=values[here]
                )
            )
        return whole


def largest(
    pre_bs: Float[Tensor, "b s"], k: int
) -> tuple[Float[Tensor, "b k"], Int[Tensor, "b k"]]:
    """The k largest entries of each row, in no order; the same values as ``torch.topk``.

    ``topk`` passes over a row several times. Wide rows are cut into columns of ``GROUP`` entries
    first: the k largest entries all lie in the k columns with the largest maxima, so all but 8·k
    entries are passed over once. On a CPU this takes 1.2 to 1.9 times less, from 3,072 to 24,576.
    """
    b, s = pre_bs.shape
    if s % GROUP != 0 or s < 2 * GROUP * k:
        values, indices = pre_bs.topk(k, dim=-1, sorted=False)
        return values, indices
    n_columns = s // GROUP
    maxima = pre_bs.view(b, GROUP, n_columns).amax(1)
    columns = maxima.topk(k, dim=-1, sorted=False).indices
    offsets = torch.arange(0, s, n_columns, device=pre_bs.device)
    candidates = (columns.unsqueeze(2) + offsets).flatten(1)
    values, chosen = pre_bs.gather(1, candidates).topk(k, dim=-1, sorted=False)
    return values, candidates.gather(1, chosen)


def pre_blocks(
    x_bd: Float[Tensor, "b d"], W_enc: Float[Tensor, "s d"], b_enc: Float[Tensor, " s"]
) -> Iterator[Float[Tensor, "rows s"]]:
    """x·W_encᵀ + b_enc in blocks of rows that stay in the cache, in float32 also under autocast.

    Without gradients; on a CPU each block is written where the one before it was.
    """
    # Once for all blocks: autocast caches a cast weight only while gradients are recorded.
    W = narrowed(W_enc)
    at_once = max(MIN_BLOCK_ROWS, PRE_BLOCK_ELEMENTS.get(x_bd.device.type, 2**22) // len(W))
    # In blocks alike: a product with a few rows reads as many weights as one with hundreds.
    n_rows = -(-len(x_bd) // max(1, round(len(x_bd) / at_once))) or 1
    if x_bd.device.type != "cpu":
        for rows in x_bd.split(n_rows):
            yield (
                F.linear(rows, W, b_enc)
                if W is W_enc
                else wide_product(rows.to(W.dtype), W) + b_enc
            )
        return
    if W is not W_enc:
        x_bd, W = x_bd.to(W.dtype).float(), W.float()
    block = x_bd.new_empty(n_rows, len(W))
    for rows in x_bd.split(n_rows):
        yield torch.addmm(b_enc, rows, W.T, out=block[: len(rows)])


@torch.no_grad()
def select_topk(
    x_bd: Float[Tensor, "b d"],
    W_enc: Float[Tensor, "s d"],
    b_enc: Float[Tensor, " s"],
    k: int,
) -> tuple[Float[Tensor, "b k"], Int[Tensor, "b k"]]:
    """Values and indices of the k largest entries of each row of x·W_encᵀ + b_enc.

    The values come back in the dtype of x.
    """
    blocks = [largest(block, k) for block in pre_blocks(x_bd, W_enc, b_enc)]
    values = torch.cat([values for values, _ in blocks]).to(x_bd.dtype)
    return values, torch.cat([indices for _, indices in blocks])


@torch.no_grad()
def select_above(
    x_bd: Float[Tensor, "b d"],
    W_enc: Float[Tensor, "s d"],
    b_enc: Float[Tensor, " s"],
    floor: Float[Tensor, "*s"],
) -> tuple[Float[Tensor, "b k"], Int[Tensor, "b k"], Bool[Tensor, "b k"]]:
    """Values and indices of the entries of x·W_encᵀ + b_enc from ``floor`` on, row by row, and which
    of them count: rows hold as many as the fullest one, filled with value and index 0.

    Args:
        floor: one for all latents, or one for each.
    """
    found = []
    for block in pre_blocks(x_bd, W_enc, b_enc):
        rows, latents = (block >= floor).nonzero().unbind(1)
        counts = torch.bincount(rows, minlength=len(block))
        found.append((counts, rows, latents, block[rows, latents]))
    counts = torch.cat([counts for counts, *_ in found])
    width = max(1, int(counts.max()))
    values, indices = [], []
    for counts, rows, latents, kept in found:
        at = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
        shape = (len(counts), width)
        values.append(x_bd.new_zeros(shape).index_put((rows, at), kept.to(x_bd.dtype)))
        indices.append(rows.new_zeros(shape).index_put((rows, at), latents))
    held = torch.arange(width, device=x_bd.device) < torch.cat([c for c, *_ in found])[:, None]
    return torch.cat(values), torch.cat(indices), held


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


def encode_topk(
    x_bd: Float[Tensor, "b d"],
    W_enc: Float[Tensor, "s d"],
    b_enc: Float[Tensor, " s"],
    b_dec: Float[Tensor, " d"],
    k: int,
    memory: GradientMemory | None = None,
) -> tuple[Float[Tensor, "b k"], SparseSupport]:
    """Codes relu(top-k((x − b_dec)·W_encᵀ + b_enc)) at the chosen latents, and which these are."""
    values, indices = select_topk((x_bd - b_dec).detach(), W_enc, b_enc, k)
    support = SparseSupport(indices, W_enc.shape[0], memory=memory)
    return attach_encoder(values, x_bd, W_enc, b_enc, b_dec, support).relu(), support


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
    """x·W_encᵀ + b_enc with gradients; where autocast narrows the factors, in float32 all the same."""
    if torch.is_autocast_enabled(x_bd.device.type):
        return _WideProduct.apply(x_bd, W_enc) + b_enc
    return F.linear(x_bd, W_enc, b_enc)
