"""What only open_clip has: activation functions that weights do not tell, text towers, hubs."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.transformer import Transformer
from safetensors.torch import save_file

from saev.backbones import load_backbone
from saev.backbones.open_clip_config import Model
from saev.errors import UserError

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16},
    "text_cfg": {"width": 32, "heads": 1, "layers": 1, "vocab_size": 49408},
}
HALVES = {"mean": [0.5] * 3, "std": [0.5] * 3}
IMAGES = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)


def save_clip(folder: Path, visual_only: bool = False, **config) -> tuple[torch.nn.Module, Path]:
    torch.manual_seed(5)
    clip = open_clip.CLIP(**TINY, **config).eval().requires_grad_(False)
    keep = {
        k: v for k, v in clip.state_dict().items() if k.startswith("visual.") or not visual_only
    }
    save_file(keep, folder / "clip.safetensors")
    return clip, folder / "clip.safetensors"


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_images_and_texts_are_embedded_as_by_open_clip(tmp_path, quick_gelu) -> None:
    clip, path = save_clip(tmp_path, quick_gelu=quick_gelu)
    (tmp_path / "tiny.json").write_text(json.dumps(TINY | {"quick_gelu": quick_gelu}))
    backbone = load_backbone("open_clip", "tiny", str(path), **HALVES)
    assert backbone.quick_gelu == quick_gelu
    assert torch.equal(backbone(IMAGES).pooled, clip.visual(IMAGES))
    tower = backbone.text_tower()
    templates = ["a photo of a {}."]
    expected = open_clip.build_zero_shot_classifier(
        clip, open_clip.SimpleTokenizer(), ["cat", "dog"], templates
    )
    assert torch.equal(tower.class_weights(["cat", "dog"], templates), expected)
    assert tower.logit_scale == pytest.approx(1 / 0.07, rel=1e-4) and tower.logit_bias == 0


def test_tokens_are_the_ones_that_are_pooled(tmp_path) -> None:
    clip, path = save_clip(tmp_path)
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    backbone = load_backbone("open_clip", "tiny", str(path), **HALVES)
    tokens, pooled, _ = backbone(IMAGES)
    torch.testing.assert_close(tokens[:, 0] @ clip.visual.proj, pooled)


def test_a_file_of_only_the_vision_tower(tmp_path) -> None:
    clip, path = save_clip(tmp_path, visual_only=True)
    (tmp_path / "clip.json").write_text(json.dumps(TINY))  # named like the weights
    backbone = load_backbone("open_clip", "any-name", str(path), **HALVES)
    assert torch.equal(backbone(IMAGES).pooled, clip.visual(IMAGES))
    assert not backbone.has_text
    with pytest.raises(UserError, match="has no text tower"):
        backbone.text_tower()


def test_a_text_tower_that_is_cut_short_is_refused_when_asked_for(tmp_path) -> None:
    clip, _ = save_clip(tmp_path)
    state = {k: v for k, v in clip.state_dict().items() if "ln_final" not in k}
    save_file(state, tmp_path / "clip.safetensors")
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    backbone = load_backbone("open_clip", "tiny", str(tmp_path / "clip.safetensors"), **HALVES)
    with pytest.raises(UserError, match=r"another architecture .*ln_final"):
        backbone.text_tower()


def test_a_folder_in_open_clips_format_brings_everything(tmp_path) -> None:
    clip, path = save_clip(tmp_path, quick_gelu=True)
    path.rename(tmp_path / "open_clip_model.safetensors")
    (tmp_path / "model.safetensors").write_bytes(b"the same for another library")
    preprocess = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "resize_mode": "squash"}
    config = {"model_cfg": TINY | {"quick_gelu": True}, "preprocess_cfg": preprocess}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    backbone = load_backbone("open_clip", "mine", str(tmp_path))
    assert backbone.quick_gelu and backbone.mean == (0.1, 0.2, 0.3)
    assert backbone.transform_spec["resize"] == "squash"
    assert torch.equal(backbone(IMAGES).pooled, clip.visual(IMAGES))


def test_normalisation_that_nobody_states_is_warned_of(tmp_path) -> None:
    _, path = save_clip(tmp_path)
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    with pytest.warns(UserWarning, match="Nothing says how images for .* are normalised"):
        backbone = load_backbone("open_clip", "tiny", str(path))
    assert backbone.mean == open_clip.OPENAI_DATASET_MEAN


def test_model_config_names_the_architecture(tmp_path) -> None:
    _, path = save_clip(tmp_path)
    (tmp_path / "architectures").mkdir()
    config = tmp_path / "architectures" / "mine.json"
    config.write_text(json.dumps(TINY))
    backbone = load_backbone("open_clip", "x", str(path), model_config=str(config), **HALVES)
    assert backbone.n_blocks == 2
    config.write_text(json.dumps({"embed_dim": 16}))
    with pytest.raises(UserError, match="vision_cfg is missing"):
        load_backbone("open_clip", "x", str(path), model_config=str(config), **HALVES)
    config.write_text("{")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        load_backbone("open_clip", "x", str(path), model_config=str(config), **HALVES)


@pytest.mark.parametrize(
    ("name", "tag", "quick_gelu"),
    [
        ("ViT-B-16", "openai", True),
        ("ViT-B-16", "laion2b_s34b_b88k", False),
        ("ViT-B-16-quickgelu", "openai", True),
        ("ViT-B-16", "hf-hub:imageomics/bioclip", False),
        ("ViT-B-16", None, False),
    ],
)
def test_the_tag_decides_on_quick_gelu(name, tag, quick_gelu) -> None:
    backbone = load_backbone("open_clip", name, "random", pretrained_tag=tag, model_kwargs=TINY)
    assert backbone.quick_gelu == quick_gelu


def test_a_folder_whose_activation_contradicts_the_tag_is_refused(tmp_path) -> None:
    save_clip(tmp_path)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY}))
    arguments = ("open_clip", "ViT-B-16", str(tmp_path))
    with pytest.raises(UserError, match=r"openai has QuickGELU and the JSON .* has GELU"):
        load_backbone(*arguments, pretrained_tag="openai", model_kwargs=TINY)
    load_backbone(*arguments, pretrained_tag="laion2b_s34b_b88k", model_kwargs=TINY)


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_a_model_of_the_hub_describes_itself(tmp_path, monkeypatch, quick_gelu) -> None:
    clip, _ = save_clip(tmp_path, quick_gelu=quick_gelu)
    config = {"model_cfg": TINY | {"quick_gelu": quick_gelu}, "preprocess_cfg": HALVES}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))

    def download(_hub_id, filename="clip.safetensors"):
        return str(tmp_path / filename)

    monkeypatch.setattr("saev.backbones.hub._hub_answers", lambda: True)
    monkeypatch.setattr("open_clip.factory.download_pretrained_from_hf", download)
    tag = "hf-hub:someone/model"
    backbone = load_backbone("open_clip", "ViT-B-16", pretrained_tag=tag, model_kwargs=TINY)
    assert backbone.weights["kind"] == "pretrained" and backbone.weights["source"] == tag
    assert backbone.quick_gelu == quick_gelu and backbone.mean == (0.5, 0.5, 0.5)
    assert torch.equal(backbone(IMAGES).pooled, clip.visual(IMAGES))
    assert backbone.text_tower().logit_scale == pytest.approx(1 / 0.07, rel=1e-4)


def test_a_file_of_unknown_activation_is_refused(tmp_path) -> None:
    _, path = save_clip(tmp_path)
    with pytest.raises(UserError, match=r"with and without QuickGELU.*pretrained_tag=openai"):
        load_backbone("open_clip", "ViT-B-16", str(path), model_kwargs=TINY)
    tagged = load_backbone(
        "open_clip", "ViT-B-16", str(path), pretrained_tag="openai", model_kwargs=TINY
    )
    assert tagged.quick_gelu


def test_larger_images_interpolate_the_position_embedding(tmp_path) -> None:
    _, path = save_clip(tmp_path)
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    backbone = load_backbone("open_clip", "tiny", str(path), image_size=64, **HALVES)
    assert backbone.grid == (4, 4)
    assert backbone(torch.zeros(1, 3, 64, 64)).tokens.shape == (1, 17, 64)


def test_blocks_that_want_tokens_first_still_give_batches_first() -> None:
    reference = load_backbone("open_clip", "ViT-B-16", "random", 0, model_kwargs=TINY)
    backbone = load_backbone("open_clip", "ViT-B-16", "random", 0, model_kwargs=TINY)
    turned = Transformer(64, layers=2, heads=1, batch_first=False).eval()
    turned.load_state_dict(backbone.trunk.visual.transformer.state_dict())
    backbone.trunk.visual.transformer = turned
    backbone.trunk.batch_first = False
    images = IMAGES
    acts = backbone.tap(images)[0]
    torch.testing.assert_close(acts, reference.tap(images)[0])
    clean = backbone(images)
    torch.testing.assert_close(clean.pooled, reference(images).pooled)
    assert torch.equal(backbone(images, {0: lambda x: x}).pooled, clean.pooled)
    assert torch.equal(backbone.resume(acts, 0).pooled, clean.pooled)


def test_a_tokenizer_that_must_be_fetched_says_what_it_needs(monkeypatch) -> None:
    monkeypatch.setattr("saev.backbones.open_clip_config.find_spec", lambda _name: None)
    text = {"context_length": 64, "hf_tokenizer_name": "timm/ViT-B-16-SigLIP"}
    model = Model("ViT-B-16-SigLIP", {"text_cfg": text}, {}, None, {}, None)
    with pytest.raises(UserError, match="pip install transformers sentencepiece"):
        model.tokenizer()
