"""Writing new values at chosen tokens: the one home of every change of the residual stream."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saev.backbones import load_backbone
from saev.editing.tokens import Tokens, add_shifts, encode, on_chosen_tokens, write
from saev.sae import SAEConfig, SparseAutoencoder

SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2}


def stream(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)).to(dtype)


def dictionary(max_norm: float | None) -> SparseAutoencoder:
    cfg = SAEConfig(3, 6, "topk", 2, max_norm=max_norm)
    return SparseAutoencoder(cfg, torch.Generator().manual_seed(1)).eval().requires_grad_(False)


@given(st.sets(st.integers(0, 4), min_size=1), st.data())
def test_nothing_changes_but_what_is_said(positions, data) -> None:
    places = torch.tensor(sorted(positions))
    flags = st.lists(st.booleans(), min_size=2 * len(places), max_size=2 * len(places))
    where = torch.tensor(data.draw(flags)).view(2, -1)
    acts, new = stream(), torch.full((2, len(places), 3), 9.0)
    written = write(acts, places, new, where)
    by_hand = stream()
    for image, column in where.nonzero().tolist():
        by_hand[image, places[column]] = 9.0
    assert torch.equal(written, by_hand)
    assert torch.equal(acts, stream())  # the stream that came in is not touched


def test_the_stream_keeps_its_precision() -> None:
    acts = stream(torch.bfloat16)
    new, where = torch.ones(2, 1, 3), torch.ones(2, 1, dtype=torch.bool)
    assert write(acts, torch.tensor([2]), new, where).dtype == torch.bfloat16


def test_shifts_are_one_write_each() -> None:
    acts, positions = stream(), torch.tensor([1, 3])
    shifts = torch.eye(3)[:2] * 5
    where = torch.tensor([[True, False], [True, True]])
    both = add_shifts(acts, positions, shifts, where)
    assert both.shape == (2, 2, 5, 3)
    for shift, found in zip(shifts, both, strict=True):
        assert torch.equal(found, write(acts, positions, acts[:, positions] + shift, where))


def test_tokens_of_abnormal_norm_are_left_as_they_are() -> None:
    acts = stream()
    acts[1, 2] *= 1000
    sae = dictionary(float(acts[0].norm(dim=-1).max()) * 10)
    positions = torch.tensor([0, 2])
    edited = on_chosen_tokens(sae, positions, torch.zeros_like)(acts)
    assert torch.equal(edited[1, 2], acts[1, 2])
    assert not edited[0, [0, 2]].any() and not edited[1, 0].any()
    assert encode(sae, Tokens(positions, positions, positions < 0), acts).normal.tolist() == [
        [True, True],
        [True, False],
    ]


def test_kinds_of_tokens() -> None:
    backbone = load_backbone(
        "timm", "vit_small_patch14_reg4_dinov2", "random", 0, image_size=28, model_kwargs=SMALL
    )
    tokens = Tokens.of(backbone, ["patch", "class"])
    assert tokens.positions.tolist() == [0, 5, 6, 7, 8]
    assert tokens.patches.tolist() == [-1, 0, 1, 2, 3]
    assert tokens.is_class.tolist() == [True, False, False, False, False]
    with pytest.raises(ValueError, match="is not one of"):
        Tokens.of(backbone, "cls")
