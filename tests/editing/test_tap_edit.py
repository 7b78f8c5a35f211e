"""Edits inside a running model: the identity to the bit, and what an edit adds."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saev.backbones import load_backbone
from saev.editing.code_edits import Add, Scale, SetTo, Where
from saev.editing.directions import (
    MatchedDirection,
    RawUnit,
    apart_from,
    covariance_directions,
    diffmean_direction,
    isotropic_directions,
    pca_direction,
    probe_directions,
)
from saev.editing.tap_edit import TapEdit
from saev.editing.tokens import Tokens, encode
from saev.heads import Reading, TrainedHead, backbone_identity
from saev.heads.own import make_head
from saev.sae import SparseAutoencoder
from saev.sae.config import SAEConfig

SMALL = {"embed_dim": 64, "depth": 3, "num_heads": 2}
MEMBERS = {
    "timm": ("timm", "vit_tiny_patch16_224", SMALL),
    "timm_registers": ("timm", "vit_small_patch14_reg4_dinov2", SMALL),
    "timm_rotary": ("timm", "vit_small_patch16_dinov3", SMALL),
    "open_clip": (
        "open_clip",
        "ViT-B-32",
        {
            "embed_dim": 32,
            "vision_cfg": {"width": 64, "layers": 3, "head_width": 32, "patch_size": 16},
            "text_cfg": {"width": 32, "heads": 1, "layers": 1},
        },
    ),
    "micro": ("timm", "micro", None),
}


def member(name: str):
    family, model, kwargs = MEMBERS[name]
    if name == "micro":
        return load_backbone(family, model, "embedded", layer=-2)
    size = 56 if "dinov2" in model else 64
    return load_backbone(family, model, "random", layer=1, image_size=size, model_kwargs=kwargs)


def dictionary(
    width: int, activation: str = "topk", max_norm: float | None = None, d_sae: int = 96
):
    cfg = SAEConfig(
        width, d_sae, activation, k=8 if activation == "topk" else None, max_norm=max_norm
    )
    sae = SparseAutoencoder(cfg, torch.Generator().manual_seed(0)).eval().requires_grad_(False)
    sae.mean.copy_(torch.randn(width, generator=torch.Generator().manual_seed(1)))
    sae.scale.fill_(1.7)
    return sae


def setup(name: str, which: str | list[str] = "patch", **kwargs):
    backbone = member(name)
    sae = dictionary(backbone.width, **kwargs)
    size = backbone.image_size
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))
    tokens = Tokens.of(backbone, which)
    acts = backbone.tap(images)[backbone.layer]
    largest = encode(sae, tokens, acts).z.flatten(0, 1).amax(0)
    return backbone, sae, images, tokens, acts, largest


@pytest.mark.parametrize("name", MEMBERS)
def test_the_identity_is_exact_through_every_family_and_head(name):
    backbone, sae, images, tokens, _, largest = setup(name)
    busy = tuple(range(sae.cfg.d_sae))
    steering = TapEdit(sae, [Scale(busy, factor=1.0)], largest, tokens)
    clean, edited = backbone(images), backbone(images, {backbone.layer: steering})
    assert torch.equal(clean.tokens, edited.tokens) and torch.equal(clean.pooled, edited.pooled)
    for head in heads(backbone):
        assert torch.equal(head(clean), head(edited))


def heads(backbone):
    found = [make_head(backbone, None)] if backbone.has_classifier else []
    for kind, features in (("classification", "embedding"), ("segmentation", "patches")):
        width = backbone(torch.zeros(1, 3, *backbone.image_size)).pooled.shape[1]
        width = width if features == "embedding" else backbone.width
        reading = Reading.of(features, backbone)
        weight = torch.randn(3, width, generator=torch.Generator().manual_seed(3))
        found.append(
            TrainedHead(kind, reading, ["a", "b", "c"], backbone_identity(backbone), weight)
        )
    return found


@pytest.mark.parametrize("activation", ["topk", "relu"])
def test_an_edit_adds_the_difference_of_two_decodings(activation):
    _, sae, _, tokens, acts, largest = setup("timm", "all", activation=activation)
    steered = TapEdit(sae, [SetTo((3, 7), scale=-2.0)], largest, tokens)(acts)
    z = sae.encode(acts)
    z_new = z.clone()
    z_new[..., [3, 7]] = -2 * largest[[3, 7]]
    assert largest[[3, 7]].min() > 0
    expected = acts + sae.decode(z_new) - sae.decode(z)
    torch.testing.assert_close(steered, expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 95), min_size=1, max_size=5, unique=True), st.floats(-20, 20))
def test_only_chosen_normal_tokens_change(latents, scale):
    _, _, _, tokens, acts, largest = SETUP
    norms = acts[:, tokens.positions].norm(dim=-1)
    limited = dictionary(64, max_norm=float(norms.median()))
    steered = TapEdit(limited, [Add(tuple(latents), scale=scale)], largest + 1, tokens)(acts)
    changed = (steered != acts).any(-1)
    assert not changed[:, 0].any()
    assert not changed[:, tokens.positions][norms > limited.cfg.max_norm].any()
    if abs(scale) > 1e-2:
        assert changed[:, tokens.positions][norms <= limited.cfg.max_norm].all()


SETUP = setup("timm")


def test_the_class_token_is_touched_only_when_said():
    backbone, sae, _, _, acts, largest = SETUP
    for which, touched in (("patch", False), (["patch", "class"], True), ("class", True)):
        tokens = Tokens.of(backbone, which)
        steered = TapEdit(sae, [Add((0,), scale=1.0)], largest + 1, tokens)(acts)
        assert bool((steered[:, 0] != acts[:, 0]).any()) == touched


def test_where_on_the_class_token_and_on_a_mask():
    backbone, sae, _, _, acts, largest = SETUP
    tokens = Tokens.of(backbone, "all")
    edit = Add((0,), scale=1.0, where=Where("class"))
    changed = (TapEdit(sae, [edit], largest + 1, tokens)(acts) != acts).any(-1)
    assert changed[:, 0].all() and not changed[:, 1:].any()
    mask = torch.zeros(2, 17, dtype=torch.bool)
    mask[0, 5] = True
    edit = Add((0,), scale=1.0, where=Where("mask"))
    changed = (TapEdit(sae, [edit], largest + 1, tokens)(acts, mask) != acts).any(-1)
    assert torch.equal(changed, mask)


def test_replace_is_the_edited_reconstruction():
    _, sae, _, tokens, acts, largest = SETUP
    steered = TapEdit(sae, [Scale((0,), factor=1.0)], largest, tokens, mode="replace")(acts)
    x_hat = sae.reconstruct(acts[:, tokens.positions])
    torch.testing.assert_close(steered[:, tokens.positions], x_hat)
    assert torch.equal(steered[:, 0], acts[:, 0])


def test_several_layers_at_once():
    backbone, sae, images, tokens, _, largest = SETUP
    lower = TapEdit(sae, [Add((1,), scale=2.0)], largest + 1, tokens)
    upper = TapEdit(sae, [Add((2,), scale=-2.0)], largest + 1, tokens)
    both = backbone(images, {0: lower, 1: upper}).tokens
    by_hand = backbone.resume(upper(_after_block_1(backbone, images, lower)), 1).tokens
    assert torch.equal(both, by_hand)


def _after_block_1(backbone, images, lower):
    kept = []
    backbone(images, {0: lower, 1: lambda x: kept.append(x.clone()) or x})
    return kept[0]


def test_directions_have_the_length_of_the_edit():
    _, sae, _, tokens, acts, largest = SETUP
    reference = TapEdit(sae, [SetTo((3, 7), scale=-1.0)], largest + 1, tokens)
    encoded = encode(sae, tokens, acts)
    edited = MatchedDirection(torch.randn(64), reference).steer(encoded)
    length = (reference.steer(encoded) - acts).norm(dim=-1)
    torch.testing.assert_close((edited - acts).norm(dim=-1), length, atol=1e-4, rtol=1e-3)
    with pytest.raises(ValueError, match="zero"):
        MatchedDirection(torch.zeros(64), reference)


def test_raw_unit_sets_one_coordinate():
    _, sae, _, tokens, acts, _ = SETUP
    edited = RawUnit(5, 3.0, tokens).steer(encode(sae, tokens, acts))
    assert (edited[:, 1:, 5] == 3.0).all()
    edited[:, 1:, 5] = acts[:, 1:, 5]
    assert torch.equal(edited, acts)


def test_random_directions_are_unit_and_follow_the_covariance():
    generator = torch.Generator().manual_seed(0)
    isotropic = isotropic_directions(500, 8, generator)
    torch.testing.assert_close(isotropic.norm(dim=-1), torch.ones(500))
    covariance = torch.diag(torch.tensor([100.0, 1, 1, 1, 1, 1, 1, 1]))
    shaped = covariance_directions(500, covariance, generator)
    assert shaped[:, 0].square().mean() > 0.7 > 0.2 > isotropic[:, 0].square().mean()


def test_baseline_directions_find_a_planted_one():
    generator = torch.Generator().manual_seed(0)
    planted = torch.nn.functional.normalize(torch.randn(16, generator=generator), dim=0)
    labels = torch.arange(600) % 3
    x = 0.3 * torch.randn(600, 16, generator=generator) + 2.0 * (labels == 1)[:, None] * planted
    towards = diffmean_direction(x[labels == 1].mean(0), x[labels != 1].mean(0))
    rows = probe_directions(x, labels, 3)
    first = pca_direction(torch.cov(x.T), towards, n_components=4)
    for direction in (towards, rows[1], first):
        assert torch.cosine_similarity(direction, planted, dim=0) > 0.9


def test_refused():
    _, sae, _, tokens, _, largest = SETUP
    with pytest.raises(ValueError, match="no latent 96"):
        TapEdit(sae, [SetTo((96,), scale=1.0)], largest, tokens)
    with pytest.raises(ValueError, match="mode"):
        TapEdit(sae, [SetTo((9,), scale=1.0)], largest, tokens, mode="subtract")


def test_directions_apart_from_another_keep_what_is_at_right_angles_to_it():
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(20, 6, generator=generator), dim=1)
    other = 3 * torch.randn(6, generator=generator)
    rest = apart_from(directions, other)
    assert torch.allclose(rest @ other, torch.zeros(20), atol=1e-5)
    assert torch.allclose(rest.norm(dim=1), torch.ones(20))
    # each is left as near to what it was as a direction at right angles can be
    kept = 1 - (directions @ other / other.norm()).square()
    assert torch.allclose((rest * directions).sum(1), kept.sqrt(), atol=1e-5)
