"""The choice of latents without dense codes: past the encoder product only the chosen ones are touched.

A dense training step costs about 10·d·s operations a token, of which 2·d·s is the encoder product;
the rest concerns k of s latents and shrinks to about 8·d·k here.

    pre = (x − b_dec)·W_encᵀ + b_enc        dense, in row blocks, never kept
    v, i = top-k(pre)                       chosen latents

What follows them is in ``products``. Shapes: `b` tokens, `d` d_model, `s` d_sae, `k` active.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saev.sae.products import (
    GradientMemory,
    SparseSupport,
    attach_encoder,
    has_pair_products,
    narrowed,
    pair_products,
    wide_product,
)

PRE_BLOCK_ELEMENTS = {"cpu": 2**22, "cuda": 2**29}
"""Pre-activations held at once: 16 MB on a CPU (larger blocks leave the cache and are returned to
the system after each step), 1 to 2 GB on a GPU."""

MIN_BLOCK_ROWS = 256
"""Rows of a block of a wide dictionary: each block reads all weights."""

LEAST_SPARE = 16
"""Candidates beyond the k, or half as many as k, where they are sought in narrow products."""

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


def top_k(pre: Float[Tensor, "*n s"], k: int) -> Float[Tensor, "*n s"]:
    """max(pre, 0) at the k largest entries of each token, 0 elsewhere.

    Source: Gao et al. 2024 (arXiv 2406.04093), eq. 2, with the ReLU of their released models.
    """
    rows = pre.reshape(-1, pre.shape[-1])
    at = largest(rows.detach(), k)[1]
    return torch.zeros_like(rows).scatter_(1, at, rows.gather(1, at).relu()).view_as(pre)


def is_rescored(W_enc: Float[Tensor, "s d"]) -> bool:
    """Whether candidates are sought in narrow products and their values taken anew in wide ones: on a CPU
    under autocast, which then has bfloat16 arithmetic as the machine has it, and exact values."""
    kind = W_enc.device.type
    autocast = kind == "cpu" and torch.is_autocast_enabled(kind)
    return autocast and W_enc.dtype == torch.float32 and has_pair_products(W_enc)


def pre_blocks(
    x_bd: Float[Tensor, "b d"], W_enc: Float[Tensor, "s d"], b_enc: Float[Tensor, " s"]
) -> Iterator[Float[Tensor, "rows s"]]:
    """x·W_encᵀ + b_enc in blocks of rows that stay in the cache; under autocast in float32 on a GPU, and
    narrow where ``is_rescored``.

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
    if not is_rescored(W_enc):
        W = W_enc
    x_bd, b_enc = x_bd.to(W.dtype), b_enc.to(W.dtype)
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
    rescored = is_rescored(W_enc)
    n = min(k + max(LEAST_SPARE, k // 2), len(W_enc)) if rescored else k
    blocks = [largest(block, n) for block in pre_blocks(x_bd, W_enc, b_enc)]
    indices = torch.cat([indices for _, indices in blocks])
    if not rescored:
        return torch.cat([values for values, _ in blocks]).to(x_bd.dtype), indices
    values = pair_products(x_bd, W_enc, indices) + b_enc[indices]
    values, at = values.topk(k, dim=1, sorted=False)
    return values, indices.gather(1, at)


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
    rescored = is_rescored(W_enc)
    found = []
    for block in pre_blocks(x_bd, W_enc, b_enc):
        rows, latents = (block >= floor).nonzero().unbind(1)
        counts = torch.bincount(rows, minlength=len(block))
        found.append((counts, rows, latents, block[:0, 0] if rescored else block[rows, latents]))
    counts = torch.cat([counts for counts, *_ in found])
    width = max(1, int(counts.max()))
    values, indices = [], []
    for counts, rows, latents, kept in found:
        at = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
        shape = (len(counts), width)
        if not rescored:
            values.append(x_bd.new_zeros(shape).index_put((rows, at), kept.to(x_bd.dtype)))
        indices.append(rows.new_zeros(shape).index_put((rows, at), latents))
    indices = torch.cat(indices)
    held = torch.arange(width, device=x_bd.device) < torch.cat([c for c, *_ in found])[:, None]
    if not rescored:
        return torch.cat(values), indices, held
    exact = pair_products(x_bd, W_enc, indices, held) + b_enc[indices]
    held &= exact >= (floor[indices] if floor.dim() else floor)
    return torch.where(held, exact, 0.0), indices, held


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
