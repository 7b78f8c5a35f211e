"""Explorers of random atoms on drawn scenes, and a small CLIP; made once."""

from pathlib import Path

import pytest
import torch

from datamodules.images import ScenesImages
from saev.backbones import Backbone, load_backbone
from saev.exploration.explorer import Explorer
from saev.heads import backbone_identity
from saev.sae import SAEConfig, SparseAutoencoder

CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16},
    "text_cfg": {"width": 32, "heads": 1, "layers": 1},
}


@pytest.fixture(scope="session")
def scenes() -> ScenesImages:
    return ScenesImages(n_images=160, val_fraction=0.5, seed=3)


@pytest.fixture(scope="session")
def explorer(sae_dir: Path, scenes: ScenesImages) -> Explorer:
    return Explorer.open(sae_dir, images=scenes, n_images=40, device="cpu")


@pytest.fixture(scope="session")
def clip_sae() -> tuple[SparseAutoencoder, Backbone]:
    """A dictionary of random atoms on a CLIP of random weights with 2 x 2 patches; read only."""
    backbone = load_backbone("open_clip", "ViT-B-16", "random", model_kwargs=CLIP)
    cfg = SAEConfig(
        d_model=backbone.width, d_sae=64, activation="topk", k=8, layer=0,
        backbone=backbone_identity(backbone), tokens={"which": "patch"},
    )  # fmt: skip
    return SparseAutoencoder(cfg, torch.Generator().manual_seed(0)), backbone


@pytest.fixture(scope="session")
def pair(
    sae_dir: Path, scenes: ScenesImages, clip_sae: tuple[SparseAutoencoder, Backbone]
) -> Explorer:
    """The first dictionary with that of the CLIP beside it."""
    first = Explorer.open(sae_dir, images=scenes, n_images=20, device="cpu")
    sae, backbone = clip_sae
    second = Explorer.open(sae, images=scenes, backbone=backbone, n_images=20, device="cpu")
    first.lay_beside(second)
    return first
