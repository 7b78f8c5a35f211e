"""From a dictionary to the backbone it was trained on."""

from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

from saev.backbones import Backbone, load_backbone
from saev.errors import UserError
from saev.heads import Reading, TrainedHead, backbone_identity
from saev.loading import backbone_of, open_dictionary
from saev.sae import SAEConfig, SparseAutoencoder

HALVES = (0.5, 0.5, 0.5)


def dictionary(model: Backbone, layer: int = 2, **changes) -> SparseAutoencoder:
    cfg = SAEConfig(model.width, 16, "topk", 4, layer=layer, tokens={"which": "patch"},
                    backbone=backbone_identity(model))  # fmt: skip
    return SparseAutoencoder(replace(cfg, **changes), torch.Generator()).eval()


def my_vit() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kwargs = {"embed_dim": 32, "depth": 3, "num_heads": 2, "img_size": 32}
        return timm.create_model("vit_tiny_patch16_224", **kwargs)


@pytest.fixture(scope="module")
def micro() -> Backbone:
    return load_backbone("micro")


def test_a_folder_or_a_dictionary_as_it_is(micro, tmp_path) -> None:
    sae = dictionary(micro)
    for where in (sae, sae.save_pretrained(tmp_path), str(tmp_path)):
        opened, backbone = open_dictionary(where)
        assert torch.equal(opened.W_enc, sae.W_enc)
        assert backbone.weights == micro.weights and backbone.layer == 2


@pytest.mark.parametrize("missing", ["backbone", "layer", "tokens"])
def test_what_it_does_not_say_is_asked_for(micro, missing: str) -> None:
    for opened in (open_dictionary, lambda sae: backbone_of(sae, "it")):
        with pytest.raises(UserError, match="does not say which backbone, layer and tokens"):
            opened(dictionary(micro, **{missing: None}))


def test_weights_that_have_moved(micro, tmp_path) -> None:
    from saev.backbones.micro.micro_vit import MICRO_DIR, WEIGHTS

    moved = tmp_path / "moved.safetensors"
    moved.write_bytes((MICRO_DIR / WEIGHTS).read_bytes())
    _, backbone = open_dictionary(dictionary(micro), weights=str(moved))
    assert backbone.spec["weights"] == str(moved)
    with pytest.raises(UserError, match=r"set backbone\.weights to the file"):
        open_dictionary(dictionary(micro), weights="random")


def test_with_a_head_pictures_are_prepared_as_the_heads_were(micro) -> None:
    seen = load_backbone("micro", resize="squash", layer=-1)
    head = TrainedHead("segmentation", Reading.of("patches", seen), ["a", "b"],
                       backbone_identity(seen), torch.ones(2, seen.width))  # fmt: skip
    backbone = backbone_of(dictionary(micro), "it", head=head)
    assert backbone.transform.resize == "squash" and backbone.layer == 2
    assert backbone_of(dictionary(micro), "it").transform == micro.transform
    head.backbone["weights"] = {"kind": "file", "sha256": "0" * 64}
    with pytest.raises(UserError, match="give a head of the same model"):
        backbone_of(dictionary(micro), "it", head=head)


def test_a_dictionary_of_a_model_object_opens_with_that_object(tmp_path) -> None:
    model = my_vit()
    folder = dictionary(load_backbone(model, mean=HALVES, name="mine")).save_pretrained(tmp_path)
    sae, backbone = open_dictionary(folder, backbone=model)
    assert backbone.mean == HALVES and backbone.name == "mine" and backbone.layer == 2
    assert open_dictionary(sae, backbone=backbone)[1] is backbone
    with pytest.raises(UserError, match="give that object as backbone"):
        open_dictionary(folder)
    with torch.no_grad():
        model.blocks[0].mlp.fc1.weight[0, 0] += 1
    with pytest.raises(UserError, match="give the model object as it was then"):
        open_dictionary(folder, backbone=model)


def test_a_dictionary_that_says_nothing(micro) -> None:
    sae = dictionary(micro, backbone=None)
    with pytest.raises(UserError, match="does not say which backbone"):
        open_dictionary(sae)
