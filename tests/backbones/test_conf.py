"""Every YAML in conf/backbone: composes, opens with its story, and describes a real model."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from saev.backbones import timm_family, weights

CONF_DIR = Path(__file__).parents[2] / "conf" / "backbone"
# name: (blocks, width, grid side, prefix tokens, QuickGELU, classifier, text tower)
EXPECTED = {
    "clip_b16": (12, 768, 14, 1, True, False, True),
    "clip_b32": (12, 768, 7, 1, True, False, True),
    "clip_l14": (24, 1024, 16, 1, True, False, True),
    "clip_b16_laion": (12, 768, 14, 1, False, False, True),
    "clip_b32_laion": (12, 768, 7, 1, False, False, True),
    "clip_l14_laion": (24, 1024, 16, 1, False, False, True),
    "siglip_b16": (12, 768, 14, 0, False, False, True),
    "siglip2_b16": (12, 768, 14, 0, False, False, True),
    "bioclip_b16": (12, 768, 14, 1, False, False, True),
    "dinov2_b14": (12, 768, 16, 5, False, False, False),
    "dinov3_b16": (12, 768, 16, 5, False, False, False),
    "mae_b16": (12, 768, 14, 1, False, False, False),
    "deit3_b16": (12, 768, 14, 1, False, True, False),
    "vit_tiny": (12, 192, 14, 1, False, True, False),
    "micro": (6, 128, 12, 1, False, True, False),
}
MEANS = {
    "clip_b16": 0.4815,
    "clip_l14_laion": 0.5,
    "siglip_b16": 0.5,
    "vit_tiny": 0.5,
    "mae_b16": 0.485,
}


def load(name: str, **overrides):
    return instantiate(OmegaConf.load(CONF_DIR / f"{name}.yaml"), **overrides)


def test_every_yaml_is_known_here() -> None:
    assert {path.stem for path in CONF_DIR.glob("*.yaml")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_opens_with_its_story_and_names_no_architecture_numbers(name) -> None:
    text = (CONF_DIR / f"{name}.yaml").read_text()
    assert text.startswith("# ") and "Source:" in text
    config = OmegaConf.load(CONF_DIR / f"{name}.yaml")
    assert config.layer == -2
    allowed = {"_target_", "family", "name", "pretrained_tag", "weights", "layer", "image_size"}
    assert set(config) <= allowed


@pytest.mark.parametrize("name", EXPECTED)
def test_describes_a_model_that_can_be_built(name, monkeypatch) -> None:
    """On the meta device: shapes without numbers, so that no gigabytes are initialised."""
    monkeypatch.setattr(timm_family, "state_dict_sha256", lambda _module: "")
    monkeypatch.setattr("saev.backbones.open_clip_family.state_dict_sha256", lambda _module: "")
    with torch.device("meta"):
        backbone = load(name, weights="random")
        output = backbone(torch.zeros(1, 3, *backbone.image_size))
    blocks, width, side, n_prefix, quick_gelu, classifier, text = EXPECTED[name]
    assert (backbone.n_blocks, backbone.width, backbone.grid) == (blocks, width, (side, side))
    assert (backbone.n_prefix, backbone.quick_gelu) == (n_prefix, quick_gelu)
    assert (backbone.has_classifier, backbone.has_text) == (classifier, text)
    assert backbone.layer == blocks - 2
    assert output.tokens.shape == (1, n_prefix + side * side, width)
    assert backbone.mean[0] == pytest.approx(MEANS.get(name, backbone.mean[0]), abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_runs_with_random_weights(name) -> None:
    backbone = load(name, weights="random")
    images = torch.randn(1, 3, *backbone.image_size)
    with torch.inference_mode():
        acts = backbone.tap(images)[backbone.layer]
        assert torch.equal(backbone.resume(acts, backbone.layer).pooled, backbone(images).pooled)
    assert weights.state_dict_sha256(backbone.trunk) and backbone.weights["kind"] == "random"
