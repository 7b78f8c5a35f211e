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

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

PRE_BLOCK_ELEMENTS = {"cpu": 2**22, "cuda": 2**29}
"""Pre-activations held at once: 16 MB on a CPU (larger blocks leave the cache and are returned to
the system after each step), 1 to 2 GB on a GPU."""

GROUP = 8
"""Entries of a row compared before the search for the k largest; 4 and 16 were slower."""

SPARSE_RATIO = {"cpu": 16, "cuda": 384}
"""The sparse path is taken from this d_sae / k on: gathering is bound by memory, a dense product
by arithmetic, and a GPU has far more of the second. Measured, forward and backward: on Zen 4 cores
even at 24 with bfloat16 products, 2.6 times faster at 96; on an H200 with them slower at 192, 1.1
times faster at 384 and 1.7 times at 768."""


def prefers_sparse(d_sae: int, k: int, device_type: str) -> bool:
    """Whether the sparse path is the faster one; a device unknown here takes the dense path."""
    return d_sae >= SPARSE_RATIO.get(device_type, float("inf")) * k


class Support:
    """The chosen latents of a batch, and the same pairs sorted by latent (once, when asked for)."""

    def __init__(self, indices_bk: Int[Tensor, "b k"], d_sae: int) -> None:
        self.indices_bk = indices_bk
        self.d_sae = d_sae
        self._by_latent: tuple[Tensor, Tensor, Tensor] | None = None

    def _sort(self) -> tuple[Tensor, Tensor, Tensor]:
        if self._by_latent is None:
            k = self.indices_bk.shape[1]
            latents, order = torch.sort(self.indices_bk.flatten(), stable=True)
            bounds = torch.arange(self.d_sae, device=latents.device)
            starts = torch.searchsorted(latents, bounds)
            self._by_latent = order, order.div(k, rounding_mode="floor"), starts
        return self._by_latent

    def transposed_product(
        self, values_bk: Float[Tensor, "b k"], rows_bd: Float[Tensor, "b d"]
    ) -> Float[Tensor, "s d"]:
        """Vᵀ·rows for the sparse b × s matrix V that holds ``values`` at the chosen pairs.

        The order of summation is fixed, so two runs agree bit for bit.
        """
        order, tokens, starts = self._sort()
        return F.embedding_bag(
            tokens,
            rows_bd,
            starts,
            mode="sum",
            per_sample_weights=values_bk.flatten()[order],
        )


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


@torch.no_grad()
def select_topk(
    x_bd: Float[Tensor, "b d"],
    W_enc: Float[Tensor, "s d"],
    b_enc: Float[Tensor, " s"],
    k: int,
) -> tuple[Float[Tensor, "b k"], Int[Tensor, "b k"]]:
    """Values and indices of the k largest entries of each row of x·W_encᵀ + b_enc.

    Follows autocast; the values come back in the dtype of x.
    """
    device = x_bd.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        # Once for all blocks: autocast caches a cast weight only while gradients are recorded.
        W_enc, b_enc = W_enc.to(dtype), b_enc.to(dtype)
    n_rows = max(1, PRE_BLOCK_ELEMENTS.get(device, 2**22) // W_enc.shape[0])
    blocks = [
        largest(F.linear(rows.to(W_enc.dtype), W_enc, b_enc), k) for rows in x_bd.split(n_rows)
    ]
    values = torch.cat([values for values, _ in blocks]).to(x_bd.dtype)
    return values, torch.cat([indices for _, indices in blocks])


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
        support: Support,
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
    def forward(ctx: Any, y_bd: Tensor, z_bk: Tensor, W_dec: Tensor, support: Support) -> Tensor:
        ctx.save_for_backward(z_bk)
        ctx.support = support
        return y_bd.view_as(y_bd)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_bd,) = grads
        (z_bk,) = ctx.saved_tensors
        return grad_bd, None, ctx.support.transposed_product(z_bk, grad_bd), None


def encode_topk(
    x_bd: Float[Tensor, "b d"],
    W_enc: Float[Tensor, "s d"],
    b_enc: Float[Tensor, " s"],
    b_dec: Float[Tensor, " d"],
    k: int,
) -> tuple[Float[Tensor, "b k"], Support]:
    """Codes relu(top-k((x − b_dec)·W_encᵀ + b_enc)) at the chosen latents, and which these are."""
    values, indices = select_topk((x_bd - b_dec).detach(), W_enc, b_enc, k)
    support = Support(indices, W_enc.shape[0])
    pre_bk = _AttachEncoder.apply(values, x_bd, W_enc, b_enc, b_dec, support)
    return pre_bk.relu(), support


def decode_topk(
    z_bk: Float[Tensor, "b k"],
    W_dec: Float[Tensor, "s d"],
    b_dec: Float[Tensor, " d"],
    support: Support,
) -> Float[Tensor, "b d"]:
    """Σ_j z_j·W_dec[i_j] + b_dec."""
    y_bd = F.embedding_bag(support.indices_bk, W_dec.detach(), mode="sum", per_sample_weights=z_bk)
    return _AttachDecoder.apply(y_bd, z_bk.detach(), W_dec, support) + b_dec
