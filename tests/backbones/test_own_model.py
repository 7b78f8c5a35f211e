"""A user's own timm or open_clip model object behind the contract."""

import pytest
import timm
import torch
from torch import nn

from saev.backbones import Backbone, as_backbone, load_backbone
from saev.backbones.own_model import read_transform
from saev.backbones.transform import ImageTransform
from saev.errors import UserError

SMALL = {"embed_dim": 32, "depth": 3, "num_heads": 2, "img_size": 32}
HALVES = (0.5, 0.5, 0.5)


def my_vit(seed: int = 0, **kwargs) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return timm.create_model("vit_tiny_patch16_224", **(SMALL | kwargs))


def bare_vit() -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(**SMALL, patch_size=16, num_classes=5)


def my_clip(size: int = 32) -> nn.Module:
    import open_clip

    vision = {"image_size": size, "width": 64, "layers": 3, "head_width": 32, "patch_size": 16}
    text = {"context_length": 4, "vocab_size": 20, "width": 32, "heads": 1, "layers": 1}
    return open_clip.CLIP(embed_dim=24, vision_cfg=vision, text_cfg=text)


def clip_transform(size: int = 32, **kwargs):
    from open_clip.transform import image_transform

    return image_transform(size, is_train=False, mean=HALVES, std=(0.2, 0.3, 0.4), **kwargs)


def test_a_timm_model() -> None:
    model = my_vit(num_classes=7).train()
    backbone = load_backbone(model, layer=1)
    assert (backbone.family, backbone.name) == ("timm", "vit_tiny_patch16_224")
    assert (backbone.layer, backbone.grid, backbone.width) == (1, (2, 2), 32)
    assert backbone.mean == tuple(model.pretrained_cfg["mean"]) and backbone.class_names is None
    assert backbone.weights["kind"] == "object" and len(backbone.weights["sha256"]) == 64
    images = torch.randn(2, 3, 32, 32)
    logits = backbone(images).logits
    assert logits is not None and torch.equal(logits, model.eval()(images))


def test_the_object_stays_as_it_is() -> None:
    model = my_vit().train()
    backbone = load_backbone(model)
    assert model.training and all(p.requires_grad for p in model.parameters())
    before = backbone.tap(torch.ones(1, 3, 32, 32))[1]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert torch.equal(backbone.tap(torch.ones(1, 3, 32, 32))[1], before)
    assert load_backbone(model).weights["sha256"] != backbone.weights["sha256"]


def test_an_open_clip_model_whole_or_its_tower() -> None:
    model = my_clip().eval()
    whole = load_backbone(model, transform=clip_transform(), layer=-1)
    tower = load_backbone(model.visual, transform=clip_transform())
    images = torch.randn(2, 3, 32, 32)
    assert whole.family == tower.family == "open_clip" and not whole.has_classifier
    with torch.no_grad():  # attention takes another path where there are gradients
        assert torch.equal(whole(images).pooled, model.encode_image(images))
    assert torch.equal(tower(images).pooled, whole(images).pooled)
    assert whole.weights["sha256"] == tower.weights["sha256"]
    assert (whole.mean, whole.std) == (HALVES, (0.2, 0.3, 0.4))


def test_preprocessing_that_open_clip_keeps_on_its_models() -> None:
    model = my_clip()
    model.visual.preprocess_cfg = {
        "mean": HALVES, "std": HALVES, "interpolation": "bilinear", "resize_mode": "squash",
    }  # fmt: skip
    found = load_backbone(model).transform
    assert found == ImageTransform((32, 32), HALVES, HALVES, "bilinear", "squash")
    assert load_backbone(model, interpolation="nearest").interpolation == "nearest"


@pytest.mark.parametrize("build", [bare_vit, my_clip])
def test_preprocessing_that_nothing_says_is_asked_for(build) -> None:
    with pytest.raises(UserError, match="nothing says how pictures are prepared") as error:
        load_backbone(build())
    assert "\n" not in str(error.value)
    backbone = load_backbone(build(), mean=HALVES, std=HALVES, resize="squash", name="mine")
    assert backbone.mean == HALVES and backbone.transform.resize == "squash"
    assert backbone.name == backbone.spec["name"] == "mine"


def test_steps_of_timm_and_open_clip_are_translated() -> None:
    from timm.data import create_transform

    cut = create_transform(224, interpolation="bicubic", crop_pct=0.9, mean=HALVES, std=HALVES)
    found = read_transform(cut, (224, 224))
    assert found.resize == "shortest" and found.crop_pct == pytest.approx(0.9, abs=0.01)
    whole = read_transform(clip_transform(64, resize_mode="squash"), (64, 64))
    assert whole.resize == "squash" and whole.crop_pct == 1.0
    assert read_transform(whole.spec(), (64, 64)) == whole


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"transform": lambda picture: picture}, "other steps than resize"),
        ({"transform": ImageTransform((64, 64), HALVES, HALVES, "bicubic")}, r"\[64, 64\] pixels"),
        ({"weights": "random"}, "weights goes with the name of a model"),
        ({"model_kwargs": {"depth": 2}}, "model_kwargs goes with the name"),
        ({"image_size": 64}, r"this model object takes \[32, 32\]"),
        ({"class_names": ["one"]}, "holds 1 names and the model's classifier has 1000"),
        ({"layer": 7}, "out of range"),
    ],
)
def test_arguments_that_do_not_fit_an_object(arguments, words) -> None:
    with pytest.raises(UserError, match=words):
        load_backbone(my_vit(), **arguments)


def test_steps_that_change_colours_are_refused() -> None:
    from torchvision.transforms import Compose, Grayscale

    steps = clip_transform()
    with pytest.raises(UserError, match="cannot be written down"):
        read_transform(Compose([Grayscale(3), *steps.transforms]), (32, 32))


def test_models_without_a_stack_of_blocks_are_refused() -> None:
    with pytest.raises(UserError, match="a Linear is neither"):
        load_backbone(nn.Linear(2, 2))
    with pytest.raises(UserError, match="not a vision transformer"):
        tower = nn.Module()
        tower.visual = nn.Linear(2, 2)
        load_backbone(tower)


def test_classes_of_the_models_own_classifier() -> None:
    names = [f"class {n}" for n in range(7)]
    assert load_backbone(my_vit(num_classes=7), class_names=names).class_names == names
    published = load_backbone(my_vit()).class_names
    assert published is not None and published[0] == "tench, Tinca tinca"


def test_whatever_takes_a_backbone_takes_all_three() -> None:
    backbone = load_backbone(my_vit())
    assert as_backbone(backbone) is backbone
    assert as_backbone(my_vit()).weights == backbone.weights
    assert isinstance(as_backbone("micro"), Backbone)
