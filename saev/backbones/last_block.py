"""Last block of a plain vision transformer, computed for the tokens alone that will be read.

A probe on the class token needs every token's key and value in the last block, but one query, one
projection and one MLP instead of 197: about a tenth of the work.
Shape legend: b batch, t tokens, r rows that are read, d width, h heads, e width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn


def for_rows(
    block: nn.Module, rows: Sequence[int]
) -> Callable[[Float[Tensor, "b t d"]], Float[Tensor, "b t d"]] | None:
    """The block's forward pass, right at ``rows`` and NaN elsewhere, so that a stray reader is seen.

    None where the block is not exactly timm's pre-norm block with its plain attention, whose
    arithmetic this repeats; the whole block has to run then.
    """
    from timm.models.vision_transformer import Attention, Block

    if type(block) is not Block or type(block.attn) is not Attention:
        return None
    if getattr(block.attn, "gate", None) is not None:
        return None

    parts = cast(Any, block)

    def forward(x_btd: Tensor) -> Tensor:
        index = torch.tensor(rows, device=x_btd.device)
        x_brd = x_btd.index_select(1, index)
        x_brd = x_brd + parts.ls1(_attend(parts.attn, parts.norm1(x_btd), index))
        x_brd = x_brd + parts.ls2(parts.mlp(parts.norm2(x_brd)))
        return torch.full_like(x_btd, torch.nan).index_copy(1, index, x_brd)

    return forward


def _attend(
    attn: Any, x_btd: Float[Tensor, "b t d"], index: Int64[Tensor, " r"]
) -> Float[Tensor, "b r d"]:
    """Self-attention of all tokens with the queries of a few."""
    b, t, _ = x_btd.shape
    n_heads, width = attn.num_heads, attn.head_dim
    weight, bias = attn.qkv.weight, attn.qkv.bias
    inner = n_heads * width
    q_bre = F.linear(x_btd.index_select(1, index), weight[:inner], _part(bias, slice(inner)))
    kv_bte = F.linear(x_btd, weight[inner:], _part(bias, slice(inner, None)))
    q_bhre = q_bre.view(b, len(index), n_heads, width).transpose(1, 2)
    k_bhte, v_bhte = kv_bte.view(b, t, 2, n_heads, width).permute(2, 0, 3, 1, 4)
    q_bhre, k_bhte = attn.q_norm(q_bhre), attn.k_norm(k_bhte)
    found = F.scaled_dot_product_attention(q_bhre, k_bhte, v_bhte, scale=attn.scale)
    rows = found.transpose(1, 2).reshape(b, len(index), inner)
    return attn.proj(attn.norm(rows))


def _part(bias: Tensor | None, which: slice) -> Tensor | None:
    return None if bias is None else bias[which]
