"""What proposes a name does not see the images that judge it."""

import numpy as np
import torch
from PIL import Image

from datamodules.images import ImageItem, ScenesImages
from saev.atlas.names.candidate_names import Columns
from saev.atlas.names.proposers import effects_of
from saev.backbones import load_backbone
from saev.codes.images import ImageList
from saev.sae import SAEConfig, SparseAutoencoder


class WatchedScenes(ScenesImages):
    """Remembers what was loaded."""

    def load(self, item: ImageItem) -> Image.Image:
        self.loaded = [*getattr(self, "loaded", []), item.image_id]
        return super().load(item)


def test_effects_are_of_images_that_do_not_judge() -> None:
    backbone = load_backbone("timm", "micro", "embedded", layer=4)
    cfg = SAEConfig(d_model=backbone.width, d_sae=4, activation="topk", k=2, layer=4,
                    tokens={"which": "patch"})  # fmt: skip
    sae = SparseAutoencoder(cfg, torch.Generator().manual_seed(0)).eval()
    source = WatchedScenes(n_images=12)
    allowed = np.arange(12) % 3 > 0
    assert backbone.class_names is not None
    columns = Columns(backbone.class_names, np.zeros((12, 8)), None, lambda out: out.logits)
    found = effects_of(
        sae, backbone, ImageList.of({"scenes": source}, None), columns, np.array([0, 2]),
        np.ones(4, np.float32), allowed, strength=2.0, n_images=20, n_random=2,
        batch_size=16, device="cpu",
    )  # fmt: skip
    may = {item.image_id for item, yes in zip(source.items, allowed, strict=True) if yes}
    assert len(source.loaded) == 8 and set(source.loaded) <= may
    assert found.change_kv.shape == (2, 8)
