"""An explorer of random atoms on drawn scenes, made once."""

from pathlib import Path

import pytest

from datamodules.images import ScenesImages
from saev.exploration.explorer import Explorer


@pytest.fixture(scope="session")
def explorer(sae_dir: Path) -> Explorer:
    scenes = ScenesImages(n_images=160, val_fraction=0.5, seed=3)
    return Explorer.open(sae_dir, images=scenes, n_images=40, device="cpu")
