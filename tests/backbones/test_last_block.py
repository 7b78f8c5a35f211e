"""The last block for a few tokens: what is read is right, the rest is seen to be missing."""

import torch
from torch import nn

from saev.backbones import load_backbone
from saev.backbones.last_block import for_rows


def test_other_tokens_are_missing_and_seen_to_be():
    backbone = load_backbone("timm", "micro", layer=-2)
    generator = torch.Generator().manual_seed(0)
    acts = torch.randn(2, backbone.n_tokens, backbone.width, generator=generator)
    block = backbone.trunk.blocks[-1]
    forward = for_rows(block, [3])
    assert forward is not None
    found = forward(acts)
    torch.testing.assert_close(found[:, 3], block(acts)[:, 3], atol=1e-5, rtol=1e-4)
    others = [i for i in range(backbone.n_tokens) if i != 3]
    assert found[:, others].isnan().all()


def test_no_other_architecture_is_imitated():
    assert for_rows(nn.TransformerEncoderLayer(8, 2), [0]) is None
    block = load_backbone("timm", "micro", layer=-2).trunk.blocks[-1]
    block.attn.gate = nn.Linear(1, 1)
    assert for_rows(block, [0]) is None
