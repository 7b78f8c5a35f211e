import pytest
import torch
import torch.nn.functional as F

from saev.backbones import BackboneOutput, load_backbone
from saev.errors import UserError
from saev.heads.own import make_head

SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 1}
CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16},
    "text_cfg": {"width": 32, "heads": 1, "layers": 1},
}


def vit(num_classes: int):
    kwargs = SMALL | {"num_classes": num_classes}
    return load_backbone(
        "timm", "vit_tiny_patch16_224", "random", image_size=32, model_kwargs=kwargs
    )


@pytest.fixture(scope="module")
def clip():
    return load_backbone("open_clip", "ViT-B-16", "random", model_kwargs=CLIP)


def pooled_only(pooled: torch.Tensor) -> BackboneOutput:
    return BackboneOutput(pooled[:, None], pooled, None)


def test_a_model_with_a_classifier_answers_itself() -> None:
    backbone = vit(1000)
    head = make_head(backbone, ["n01443537", "not a class", "tench"])
    output = backbone(torch.randn(2, 3, 32, 32))
    assert head.name == "classifier" and not head.needs_fit
    assert head(output) is output.logits
    assert head.label_map is not None and head.label_map.tolist() == [1, -1, 0]
    assert head.columns_of(torch.tensor([2, 1, 0, -1])).tolist() == [0, -1, 1, -1]


@pytest.mark.parametrize("names", [None, ["quasar", "pulsar"]])
def test_a_classifier_of_other_classes_has_no_accuracy(names) -> None:
    head = make_head(vit(1000), names)
    assert head.name == "classifier" and head.label_map is None
    assert head.columns_of(torch.tensor([0, 1])).tolist() == [-1, -1]


def test_zero_shot_is_cosine_times_the_models_scale(clip) -> None:
    names = ["cat", "great_white_shark"]
    head = make_head(clip, names, templates=["a photo of a {}."])
    output = clip(torch.randn(3, 3, 32, 32))
    text = clip.text_tower()
    weights = text.class_weights(["cat", "great white shark"], ["a photo of a {}."])
    expected = F.normalize(output.pooled, dim=1) @ weights * text.clip.logit_scale.exp()
    assert head.name == "zero_shot" and head.label_map.tolist() == [0, 1]
    torch.testing.assert_close(head(output), expected)
    assert torch.allclose(weights.norm(dim=0), torch.ones(2))


def test_zero_shot_adds_siglips_bias(clip) -> None:
    kwargs = CLIP | {"init_logit_bias": -10.0}
    biased = load_backbone("open_clip", "ViT-B-16", "random", model_kwargs=kwargs)
    output = clip(torch.randn(3, 3, 32, 32))
    difference = make_head(biased, ["cat"])(output) - make_head(clip, ["cat"])(output)
    torch.testing.assert_close(difference, torch.full_like(difference, -10.0))


def test_prototypes_are_class_means() -> None:
    """By hand: unit vectors east, north; a query at 60° has cosines 0.5 and √3/2, over 0.07."""
    head = make_head(vit(0), ["east", "nowhere", "north"])
    pooled = torch.tensor([[2.0, 0.0], [0.0, 3.0], [0.0, 1.0], [5.0, 5.0]])
    assert head.name == "prototypes" and head.needs_fit
    head.fit(pooled, torch.tensor([0, 2, 2, -1]))
    assert head.label_map.tolist() == [0, -1, 1]
    logits = head(pooled_only(torch.tensor([[0.5, 3**0.5 / 2]])))
    torch.testing.assert_close(logits, torch.tensor([[0.5, 3**0.5 / 2]]) / 0.07)


def test_instances_find_the_image_itself() -> None:
    head = make_head(vit(0), None)
    pooled = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    assert head.name == "instances"
    logits = head.fit(pooled)(pooled_only(pooled * 3))
    assert logits.argmax(dim=1).tolist() == list(range(6))
    assert head.label_map is None


def test_a_tokenizer_out_of_reach_falls_back_with_a_warning_or_raises_when_asked(
    clip, monkeypatch
) -> None:
    def unreachable(_self):
        raise UserError("The tokenizer is not at hand.")

    monkeypatch.setattr("saev.backbones.open_clip_config.Model.tokenizer", unreachable)
    with pytest.warns(UserWarning, match="class prototypes instead"):
        assert make_head(clip, ["cat"]).name == "prototypes"
    with pytest.raises(UserError, match="not at hand"):
        make_head(clip, ["cat"], prefer="zero_shot")


def test_heads_that_cannot_be(clip) -> None:
    with pytest.raises(UserError, match="head='knn' is not one of auto, classifier"):
        make_head(clip, ["cat"], prefer="knn")
    with pytest.raises(UserError, match="has no classifier"):
        make_head(clip, ["cat"], prefer="classifier")
    with pytest.raises(UserError, match="has no text tower"):
        make_head(vit(0), ["cat"], prefer="zero_shot")
    with pytest.raises(UserError, match="needs class names"):
        make_head(clip, None, prefer="prototypes")
    with pytest.raises(ValueError, match="call fit"):
        make_head(clip, None)(pooled_only(torch.ones(1, 2)))
    with pytest.raises(ValueError, match="need labels"):
        make_head(clip, ["cat"], prefer="prototypes").fit(torch.ones(1, 2))
    with pytest.raises(ValueError, match="at least one image"):
        make_head(clip, ["cat"], prefer="prototypes").fit(torch.ones(1, 2), torch.tensor([-1]))
    with pytest.raises(ValueError, match="comes with the model"):
        make_head(vit(10), None).fit(torch.ones(1, 2))
