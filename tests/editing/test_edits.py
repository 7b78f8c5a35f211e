"""Edits on codes: each kind by hand, where they apply, lists, YAML."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saev.editing import edits
from saev.editing.code_edits import (
    Ablate,
    Add,
    Clamp,
    Scale,
    SetTo,
    Swap,
    TokenCodes,
    Where,
    apply_edits,
)
from saev.editing.edits import make_edit, parse_edit, parse_where
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
    listed = [SetTo((0,), scale=1.0), Scale((0, 2), factor=3.0)]
    latents, after = apply_edits(listed, codes(), LARGEST)
    assert latents == (0, 2)
    assert torch.equal(after[..., 0], torch.full((2, 4), 6.0))
    assert torch.equal(after[..., 1], 3 * codes().z[..., 2])


@given(st.permutations([0, 1, 2]), st.floats(-20, 20))
def test_edits_of_different_latents_commute(order, scale):
    listed = [SetTo((0,), scale=scale), Scale((1,), factor=2.0), Ablate((2,))]
    expected = dict(zip(*_columns(listed), strict=True))
    for latent, column in zip(*_columns([listed[i] for i in order]), strict=True):
        assert torch.equal(column, expected[latent])


def _columns(listed):
    latents, z = apply_edits(listed, codes(), LARGEST)
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


@pytest.mark.parametrize(
    "built, expected",
    [
        (edits.ablate(latents=[1, 2]), Ablate((1, 2))),
        (edits.set(3, scale=-1.0), SetTo((3,), scale=-1.0)),
        (edits.set(latent=3, code=2), SetTo((3,), scale=2.0, unit="code")),
        (edits.scale(3, factor=0.5, where="class"), Scale((3,), factor=0.5, where=Where("class"))),
        (edits.add(3, scale=1, where={"patches": [0]}),
         Add((3,), scale=1.0, where=Where("patches", (0,)))),
        (edits.clamp(3, low=0, high=0.5), Clamp((3,), low=0.0, high=0.5)),
        (edits.clamp(3, low_code=0, high_code=4), Clamp((3,), low=0.0, high=4.0, unit="code")),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_by_name_in_python_and_in_json(built, expected):
    assert built == expected
    assert edits.edit_from_dict(json.loads(json.dumps(edits.edit_to_dict(built)))) == expected


def test_a_swap_in_json_goes_without_its_tensor():
    swap = edits.swap(latents=[1, 3], source=torch.ones(4, 2), where={"silent": 2})
    again = edits.edit_from_dict(edits.edit_to_dict(swap), source=swap.source)
    assert again.latents == (1, 3) and again.where == Where("silent", latent=2)
    assert torch.equal(again.source, swap.source)


def test_amounts_in_codes_need_no_largest():
    absolute = [edits.set(1, code=3.0), edits.add(2, code=0.5), edits.ablate(0)]
    _, after = apply_edits(absolute, codes(), None)
    assert torch.equal(after[..., 0], torch.full((2, 4), 3.0))
    assert torch.equal(after[..., 1], codes().z[..., 2] + 0.5)
    assert not any(edit.needs_largest for edit in absolute)
    assert edits.set(1, scale=3.0).needs_largest


@pytest.mark.parametrize(
    "call, word",
    [
        (lambda: edits.set(scale=1.0), "latent=… or latents="),
        (lambda: edits.set(1, latents=[2], scale=1.0), "one of them only"),
        (lambda: edits.set(1), "scale=… or code=…"),
        (lambda: edits.add(1, scale=1.0, code=1.0), "one of them only"),
        (lambda: edits.clamp(1, low=0.0, high_code=2.0), "not one of each"),
        (lambda: edits.edit_from_dict({"kind": "set", "latents": [1], "scale": 1, "unit": "m"}),
         "unit is 'm'"),
    ],
)  # fmt: skip
def test_refused_in_python(call, word):
    with pytest.raises(UserError, match=word):
        call()
