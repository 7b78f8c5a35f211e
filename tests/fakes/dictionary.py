"""A dictionary of random atoms on the micro model, which saw drawn scenes."""

from pathlib import Path

import torch

from saev.backbones import load_backbone
from saev.sae import SAEConfig, SparseAutoencoder

SCENES = {"_target_": "datamodules.images.ScenesImages", "n_images": 28}


def make_sae(folder: Path, seed: int, layer: int = 4) -> Path:
    backbone = load_backbone("timm", "micro", "embedded", layer=layer)
    identity = {
        "family": "timm",
        "name": "micro",
        "weights": backbone.weights,
        "spec": backbone.spec,
    }
    cfg = SAEConfig(
        d_model=backbone.width, d_sae=96, activation="topk", k=6, backbone=identity, layer=layer,
        tokens={"which": "patch"}, images=SCENES,
    )  # fmt: skip
    return SparseAutoencoder(cfg, torch.Generator().manual_seed(seed)).save_pretrained(folder)
