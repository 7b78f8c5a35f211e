"""Edits on codes: each kind by hand, where they apply, lists, YAML."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saev.editing.edits import (
    Ablate,
    Add,
    Clamp,
    Scale,
    SetTo,
    Swap,
    TokenCodes,
    Where,
    apply_edits,
    make_edit,
    parse_edit,
    parse_where,
)
from saev.errors import UserError

LARGEST = torch.tensor([2.0, 4.0, 1.0, 8.0])


def codes(mask: bool = False) -> TokenCodes:
    """Two images; the class token and three patches; four latents."""
    z = torch.arange(32.0).view(2, 4, 4) % 5
    masks = torch.tensor([[False, True, False, True], [False, False, True, False]])
    is_class = torch.tensor([True, False, False, False])
    return TokenCodes(z, torch.tensor([-1, 0, 1, 2]), is_class, masks if mask else None)


@pytest.mark.parametrize(
    "edit, expected",
    [
        (Ablate((1, 3)), lambda z: torch.zeros_like(z)),
        (SetTo((1, 3), scale=-2.0), lambda z: torch.tensor([-8.0, -16.0]).expand_as(z)),
        (Scale((1, 3), factor=0.5), lambda z: 0.5 * z),
        (Add((1, 3), scale=1.0), lambda z: z + torch.tensor([4.0, 8.0])),
        (Clamp((1, 3), low=0.25, high=0.5), lambda z: z.clamp(min=torch.tensor([1.0, 2.0]),
                                                              max=torch.tensor([2.0, 4.0]))),
        (Swap((1, 3), source=torch.ones(4, 2)), lambda z: torch.ones_like(z)),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_each_kind_by_hand(edit, expected):
    before = codes()
    latents, after = apply_edits([edit], before, LARGEST)
    assert latents == (1, 3)
    assert torch.equal(after, expected(before.z[..., [1, 3]]))


@pytest.mark.parametrize(
    "where, touched",
    [
        (Where("patches", (0, 2)), [[0, 1, 0, 1], [0, 1, 0, 1]]),
        (Where("mask"), [[0, 1, 0, 1], [0, 0, 1, 0]]),
        (Where("off_mask"), [[1, 0, 1, 0], [1, 1, 0, 1]]),
        (Where("class"), [[1, 0, 0, 0], [1, 0, 0, 0]]),
        (Where("fires", latent=2, threshold=1.5), [[1, 0, 0, 1], [1, 1, 0, 0]]),
        (Where("silent", latent=2, threshold=1.5), [[0, 1, 1, 0], [0, 0, 1, 1]]),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_where(where, touched):
    before = codes(mask=True)
    _, after = apply_edits([SetTo((0,), scale=50.0, where=where)], before, LARGEST)
    assert torch.equal(after[..., 0] == 100.0, torch.tensor(touched, dtype=torch.bool))
    untouched = ~torch.tensor(touched, dtype=torch.bool)
    assert torch.equal(after[untouched], before.z[..., [0]][untouched])


def test_a_list_applies_in_order():
    edits = [SetTo((0,), scale=1.0), Scale((0, 2), factor=3.0)]
    latents, after = apply_edits(edits, codes(), LARGEST)
    assert latents == (0, 2)
    assert torch.equal(after[..., 0], torch.full((2, 4), 6.0))
    assert torch.equal(after[..., 1], 3 * codes().z[..., 2])


@given(st.permutations([0, 1, 2]), st.floats(-20, 20))
def test_edits_of_different_latents_commute(order, scale):
    edits = [SetTo((0,), scale=scale), Scale((1,), factor=2.0), Ablate((2,))]
    expected = dict(zip(*_columns(edits), strict=True))
    for latent, column in zip(*_columns([edits[i] for i in order]), strict=True):
        assert torch.equal(column, expected[latent])


def _columns(edits):
    latents, z = apply_edits(edits, codes(), LARGEST)
    return latents, z.unbind(-1)


def test_edits_are_pure():
    before = codes()
    kept = before.z.clone()
    apply_edits([Ablate((0, 1, 2, 3))], before, LARGEST)
    assert torch.equal(before.z, kept)


def test_yaml():
    edit = parse_edit({"kind": "set", "scale": -2, "where": {"patches": [3]}}, [5, 6])
    assert edit == SetTo((5, 6), scale=-2.0, where=Where("patches", (3,)))
    assert parse_edit({"kind": "ablate", "latents": [1]}, [5]) == Ablate((1,))
    assert parse_where({"fires": 7, "threshold": 0.5}) == Where("fires", latent=7, threshold=0.5)


@pytest.mark.parametrize(
    "call, word",
    [
        (lambda: make_edit("remove", [1]), "remove"),
        (lambda: make_edit("set", [1]), "scale"),
        (lambda: make_edit("ablate", [1], scale=2.0), "scale"),
        (lambda: make_edit("ablate", []), "nothing to edit"),
        (lambda: make_edit("ablate", [1, 1]), "twice"),
        (lambda: make_edit("clamp", [1], low=2.0, high=1.0), "above"),
        (lambda: parse_where("left"), "left"),
        (lambda: parse_where({"patches": []}), "patches"),
        (lambda: parse_where("fires"), "latent"),
    ],
)
def test_refused(call, word):
    with pytest.raises(UserError, match=word):
        call()


def test_a_mask_that_is_not_there():
    with pytest.raises(ValueError, match="without a mask"):
        apply_edits([Ablate((0,), where=Where("mask"))], codes(), LARGEST)
