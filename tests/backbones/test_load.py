"""Names, blocks, tokens and sizes: what load_backbone resolves and what it refuses."""

import pytest
import torch

from saev.backbones import Backbone, load_backbone
from saev.errors import UserError

SMALL = {"embed_dim": 32, "depth": 3, "num_heads": 1}


def small(name: str = "vit_tiny_patch16_224", layer: int = -2, **kwargs) -> Backbone:
    kwargs = {"image_size": 32, "model_kwargs": SMALL} | kwargs
    return load_backbone("timm", name, "random", layer, **kwargs)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"family": "jax", "name": "vit"}, "backbone.family='jax' is not one of timm, open_clip"),
        (
            {"family": "timm", "name": "vit_tinny_patch16_224"},
            "no model 'vit_tinny_patch16_224': did you mean vit_tiny_patch16_224",
        ),
        ({"family": "timm", "name": "vit_tiny_patch16_224.nonsense"}, "it has augreg_in21k"),
        ({"family": "timm", "name": "resnet18"}, "not a plain vision transformer"),
        ({"family": "timm", "name": "swin_tiny_patch4_window7_224"}, "not a plain vision"),
        (
            {"family": "timm", "name": "vit_tiny_patch16_224.augreg_in21k", "pretrained_tag": "x"},
            "disagree",
        ),
        ({"family": "timm", "name": "micro", "pretrained_tag": "x"}, "no meaning for micro"),
        ({"family": "open_clip", "name": "ViT-B-61"}, "no model 'ViT-B-61'.*did you mean ViT-B-16"),
        ({"family": "open_clip", "name": "RN50"}, "not a vision transformer"),
        (
            {"family": "open_clip", "name": "ViT-B-16", "pretrained_tag": "nonsense"},
            "no weights tagged 'nonsense': it has openai",
        ),
        (
            {"family": "timm", "name": "vit_base_patch16_clip_224.openai"},
            "QuickGELU and this model has GELU: set "
            "backbone.name=vit_base_patch16_clip_quickgelu_224.openai",
        ),
    ],
)
def test_names_that_do_not_exist_or_do_not_fit(arguments, words) -> None:
    with pytest.raises(UserError, match=words) as error:
        load_backbone(weights="random", **arguments)
    assert "\n" not in str(error.value)


def test_open_clip_pretrained_needs_a_tag() -> None:
    with pytest.raises(UserError, match=r"needs backbone.pretrained_tag .* it has openai"):
        load_backbone("open_clip", "ViT-B-16")


@pytest.mark.parametrize(("layer", "resolved"), [(0, 0), (2, 2), (-1, 2), (-2, 1), (-3, 0)])
def test_layers_count_from_either_end(layer, resolved) -> None:
    assert small(layer=layer).layer == resolved


@pytest.mark.parametrize("layer", [3, 12, -4])
def test_a_layer_out_of_range_names_the_range(layer) -> None:
    with pytest.raises(UserError, match=f"layer={layer} is out of range.*from 0 to 2, or from -3"):
        small(layer=layer)
    with pytest.raises(UserError, match="out of range"):
        small().tap(torch.zeros(1, 3, 32, 32), [layer])


def test_token_indices() -> None:
    backbone = small("vit_small_patch14_reg4_dinov2", image_size=28)
    assert backbone.token_names == ["class", *["register"] * 4, *["patch"] * 4]
    assert backbone.token_indices("class").tolist() == [0]
    assert backbone.token_indices("registers").tolist() == [1, 2, 3, 4]
    assert backbone.token_indices("patch").tolist() == [5, 6, 7, 8]
    assert backbone.token_indices("all").tolist() == list(range(9))
    with pytest.raises(UserError, match="tokens='cls' is not one of patch, class"):
        backbone.token_indices("cls")
    with pytest.raises(UserError, match=r"has none \(its tokens: 1 class, 4 patch\)"):
        small().token_indices("registers")


@pytest.mark.parametrize(
    ("size", "words"),
    [(100, "multiple of the patch size"), ([32], "one or two positive"), (-16, "one or two")],
)
def test_an_image_size_that_cannot_be(size, words) -> None:
    with pytest.raises(UserError, match=words):
        small(image_size=size)


def test_an_image_may_be_wider_than_high() -> None:
    backbone = small(image_size=[32, 64])
    assert backbone.grid == (2, 4)
    assert backbone.tap(torch.zeros(1, 3, 32, 64))[1].shape == (1, 9, 32)


def test_images_and_acts_of_another_shape_are_refused() -> None:
    backbone = small()
    with pytest.raises(ValueError, match="takes \\(batch, 3, 32, 32\\)"):
        backbone(torch.zeros(1, 3, 48, 48))
    with pytest.raises(ValueError, match="5 tokens, 32 wide"):
        backbone.resume(torch.zeros(1, 6, 32), 0)
    with pytest.raises(ValueError, match="keep the shape"):
        backbone(torch.zeros(1, 3, 32, 32), {0: lambda acts: acts[:, 1:]})
    with pytest.raises(ValueError, match="taps nothing"):
        backbone.tap(torch.zeros(1, 3, 32, 32), [])
    with pytest.raises(ValueError, match="one block twice"):
        backbone(torch.zeros(1, 3, 32, 32), {1: lambda x: x, -2: lambda x: x})


def test_a_constructor_argument_that_does_not_exist() -> None:
    with pytest.raises(UserError, match="cannot be built with"):
        small(model_kwargs={"deph": 3})


def test_imagenet_classes_come_with_their_ids() -> None:
    backbone = small()
    assert backbone.class_names is not None and backbone.class_ids is not None
    assert len(backbone.class_names) == 1000
    assert backbone.class_names[0] == "tench, Tinca tinca" and backbone.class_ids[0] == "n01440764"
    other = small(model_kwargs=SMALL | {"num_classes": 7})
    assert other.has_classifier and other.class_names is None


def test_micro_needs_no_download() -> None:
    backbone = load_backbone("timm", "micro", "embedded")
    assert backbone.weights["kind"] == "file" and backbone.layer == 4
    assert backbone.class_names is not None and "circle" in backbone.class_names
    output = backbone(torch.zeros(1, 3, 96, 96))
    assert output.logits is not None and output.logits.shape == (1, len(backbone.class_names))
    with pytest.raises(UserError, match="neither a file nor a folder"):  # only micro has them
        load_backbone("timm", "vit_tiny_patch16_224", "embedded")


def test_a_file_of_conf_by_its_name() -> None:
    backbone = load_backbone("micro")
    assert backbone.spec == load_backbone("timm", "micro", "embedded", -2).spec
    assert load_backbone("micro", layer=1, resize="squash").spec["resize"] == "squash"
    assert load_backbone("micro", layer=1).layer == 1
    assert load_backbone("micro", weights="random", seed=3).spec["seed"] == 3


def test_a_name_that_no_file_has() -> None:
    with pytest.raises(UserError, match=r"did you mean 'micro'\? .*clip_b16, .*micro"):
        load_backbone("mikro")
    with pytest.raises(UserError, match="transform goes with a model object"):
        load_backbone("micro", transform=object())
    with pytest.raises(UserError, match="was a model object in Python"):
        load_backbone(family="timm", name="mine", weights="object")
