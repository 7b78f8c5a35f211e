"""The laws of the backbone contract, on random weights, for every kind of transformer."""

import copy
import json

import pytest
import torch
from torch import Tensor

from saev.backbones import Backbone, load_backbone


def equal(a, b) -> bool:
    return all((x is None and y is None) or torch.equal(x, y) for x, y in zip(a, b, strict=True))


def plain_hook(backbone: Backbone, images: Tensor, layer: int) -> Tensor:
    seen = []
    handle = backbone.trunk.blocks[layer].register_forward_hook(
        lambda _m, _i, out: seen.append(out)
    )
    backbone(images)
    handle.remove()
    return seen[0]


def test_discovers_the_model(backbone: Backbone, member, clean) -> None:
    assert backbone.grid == member.grid
    assert backbone.image_size == (member.image_size, member.image_size)
    assert tuple(backbone.token_names[: backbone.n_prefix]) == member.prefix
    assert backbone.quick_gelu == member.quick_gelu
    assert backbone.has_classifier == member.classifier
    assert (clean.logits is not None) == member.classifier
    assert backbone.n_blocks == len(backbone.trunk.blocks)
    assert backbone.weights["kind"] == "random" and len(backbone.weights["sha256"]) == 64


def test_grid_and_tokens_agree_with_the_image(backbone: Backbone, images: Tensor, clean) -> None:
    acts = backbone.tap(images)[backbone.layer]
    n_patches = backbone.grid[0] * backbone.grid[1]
    assert acts.shape == (2, backbone.n_prefix + n_patches, backbone.width)
    assert clean.tokens.shape == acts.shape
    assert len(backbone.token_indices("patch")) == n_patches
    assert len(backbone.token_indices("all")) == backbone.n_tokens == acts.shape[1]


def test_patches_are_row_major(backbone: Backbone, images: Tensor) -> None:
    """A change of the picture at row 2, column 1 moves that token most, after the first block."""
    patch_h = backbone.image_size[0] // backbone.grid[0]
    patch_w = backbone.image_size[1] // backbone.grid[1]
    changed = images.clone()
    changed[:, :, 2 * patch_h : 3 * patch_h, patch_w : 2 * patch_w] += 3
    difference = backbone.tap(changed, [0])[0] - backbone.tap(images, [0])[0]
    strongest = difference.norm(dim=-1)[:, backbone.n_prefix :].argmax(dim=1)
    assert strongest.tolist() == [2 * backbone.grid[1] + 1] * 2


def test_tap_equals_a_plain_hook(backbone: Backbone, images: Tensor) -> None:
    for layer in range(backbone.n_blocks):
        assert torch.equal(
            backbone.tap(images, [layer])[layer], plain_hook(backbone, images, layer)
        )


def test_two_layers_in_one_pass_equal_two_passes(backbone: Backbone, images: Tensor) -> None:
    both = backbone.tap(images, [-1, 0])
    assert list(both) == [0, backbone.n_blocks - 1]
    for layer, acts in both.items():
        assert torch.equal(acts, backbone.tap(images, [layer])[layer])


def test_tap_stops_at_the_last_tapped_block(backbone: Backbone, images: Tensor) -> None:
    ran = []
    handles = [
        block.register_forward_pre_hook(lambda _m, _i, k=k: ran.append(k))
        for k, block in enumerate(backbone.trunk.blocks)
    ]
    backbone.tap(images, [0, 1])
    for handle in handles:
        handle.remove()
    assert ran == [0, 1]


def test_identity_edit_is_bit_exact(backbone: Backbone, images: Tensor, clean) -> None:
    edits = {layer: lambda acts: acts for layer in range(backbone.n_blocks)}
    assert equal(backbone(images, edits), clean)


def test_edit_at_patches_leaves_the_other_tokens_of_the_layer(
    backbone: Backbone, images: Tensor, clean
) -> None:
    layer = backbone.layer
    patches = backbone.token_indices("patch")[::2]
    # a constant would vanish in the next layer norm
    direction = torch.linspace(-1, 1, backbone.width)

    def shift(acts: Tensor) -> Tensor:
        acts = acts.clone()
        acts[:, patches] += direction
        return acts

    before = plain_hook(backbone, images, layer)
    after = []
    handle = backbone.trunk.blocks[layer + 1].register_forward_pre_hook(
        lambda _m, args: after.append(args[0])
    )
    edited = backbone(images, {layer: shift})
    handle.remove()
    others = [i for i in range(backbone.n_tokens) if i not in patches.tolist()]
    assert torch.equal(after[0][:, others], before[:, others])
    assert torch.equal(after[0][:, patches], before[:, patches] + direction)
    assert not torch.equal(edited.pooled, clean.pooled)


def test_resume_equals_an_edit_and_the_whole(backbone: Backbone, images: Tensor, clean) -> None:
    for layer in range(backbone.n_blocks):
        acts = backbone.tap(images, [layer])[layer]
        assert equal(backbone.resume(acts, layer), clean)
        edits = {layer: lambda acts: acts.roll(1, dims=1) * 0.5}
        assert equal(backbone.resume(edits[layer](acts), layer), backbone(images, edits))


def test_gradients_flow_to_an_edit_and_not_to_the_model(backbone: Backbone, images: Tensor) -> None:
    acts = backbone.tap(images, [0])[0].requires_grad_()
    backbone.resume(acts, 0).pooled.square().sum().backward()
    assert acts.grad is not None and acts.grad.abs().max() > 0
    assert all(p.grad is None and not p.requires_grad for p in backbone.parameters())


def test_half_precision_agrees(backbone: Backbone, images: Tensor, clean) -> None:
    half = copy.deepcopy(backbone).to(torch.bfloat16)
    acts, expected = half.tap(images)[half.layer], backbone.tap(images)[backbone.layer]
    assert acts.dtype == torch.bfloat16
    # bfloat16 keeps 8 bits: 0.4 % per rounding, a few dozen roundings
    assert (acts.float() - expected).norm() < 0.03 * expected.norm()
    output = half.resume(expected, half.layer)
    assert (output.pooled.float() - clean.pooled).norm() < 0.05 * clean.pooled.norm()
    assert equal(half(images, {0: lambda x: x.float()}), half(images))


def test_autocast_resumes_where_it_tapped(backbone: Backbone, images: Tensor) -> None:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        acts = backbone.tap(images)[backbone.layer]
        assert equal(backbone.resume(acts, backbone.layer), backbone(images))


def test_stays_in_eval_mode(backbone: Backbone) -> None:
    torch.nn.Sequential(backbone).train()
    assert not any(module.training for module in backbone.modules())


def test_hooks_and_forwards_are_gone_after_an_exception(
    backbone: Backbone, images: Tensor, clean
) -> None:
    def fail(_acts: Tensor) -> Tensor:
        raise KeyError("from an edit")

    acts = backbone.tap(images, [0])[0]
    with pytest.raises(KeyError):
        backbone(images, {1: fail})
    handle = backbone.trunk.blocks[1].register_forward_hook(lambda _m, _i, out: fail(out))
    with pytest.raises(KeyError):
        backbone.resume(acts, 0)
    handle.remove()
    assert not any(
        block._forward_hooks or "forward" in vars(block) for block in backbone.trunk.blocks
    )
    assert equal(backbone(images), clean)


def test_spec_rebuilds_the_same_backbone(backbone: Backbone, images: Tensor, clean) -> None:
    again = load_backbone(**json.loads(json.dumps(backbone.spec)))
    assert again.weights == backbone.weights
    assert again.transform_spec == json.loads(json.dumps(backbone.transform_spec))
    assert equal(again(images), clean)


def test_resuming_for_a_few_tokens_agrees_on_them(backbone: Backbone, images: Tensor) -> None:
    acts = backbone.tap(images, [0])[0]
    whole = backbone.resume(acts, 0).tokens
    rows = [0, 2]
    few = backbone.resume(acts, 0, rows).tokens
    torch.testing.assert_close(few[:, rows], whole[:, rows], atol=1e-5, rtol=1e-4)
    last = backbone.n_blocks - 1
    acts = backbone.tap(images, [last])[last]
    assert equal(backbone.resume(acts, last, rows), backbone.resume(acts, last))
