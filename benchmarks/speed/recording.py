"""Images to activation tars, against the backbone's bare forward pass.

ViT-Tiny with random weights; photographs are imitated: JPEG files of 300 × 300 pixels with structure at
all scales, as large as a photograph's.
"""

import shutil
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.speed.rows import Rounds, Row, interleaved, rate, ratio
from datamodules.images import FolderImages
from datamodules.images.batches import image_batches
from datamodules.progress import progress_bars
from saev.backbones import Backbone, load_backbone
from saev.defaults import defaults
from saev.recording.record_activations import record_activations

BARE, TARS = "bare_forward", "tars"
MODEL, LAYER = "vit_tiny_patch16_224", 10


def write_images(folder: Path, n_images: int) -> FolderImages:
    """JPEG files in which neighbouring pixels are alike, as in a photograph."""
    rng = np.random.default_rng(0)
    target = folder / "train" / "photo"
    target.mkdir(parents=True)
    (folder / "val" / "photo").mkdir(parents=True)
    for number in range(n_images):
        layers = []
        for side in (4, 16, 75, 300):
            grain = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
            layers.append(np.asarray(Image.fromarray(grain).resize((300, 300)), np.float32))
        mixed = 0.5 * layers[0] + 0.25 * layers[1] + 0.15 * layers[2] + 0.1 * layers[3]
        where = target if number % 16 else folder / "val" / "photo"
        Image.fromarray(mixed.astype(np.uint8)).save(where / f"{number:05d}.jpg", quality=90)
    return FolderImages(roots=[str(folder)])


class BareForward:
    """Blocks up to the tap on images that are in memory already."""

    def __init__(self, backbone: Backbone, source: FolderImages, batch: int) -> None:
        self.backbone = backbone
        with progress_bars(False):
            self.batches = [
                one.images
                for one in image_batches(
                    source, source.items, backbone.transform, batch_size=batch, num_workers=0,
                    description="",
                )
            ]  # fmt: skip

    def seconds(self) -> float:
        """Of all images."""
        started = time.perf_counter()
        with torch.inference_mode():
            for images in self.batches:
                self.backbone.tap(images)
        return time.perf_counter() - started


def measure(folder: Path, rounds: int, n_images: int = 256) -> list[Row]:
    """Rows of the bare forward pass and of recording with the command's defaults."""
    source = write_images(folder / "images", n_images)
    backbone = load_backbone("timm", MODEL, weights="random", layer=LAYER)
    settings = defaults("train", "record")
    bare = BareForward(backbone, source, settings["batch_size"])

    def to_tars() -> float:
        started = time.perf_counter()
        with progress_bars(False):
            record_activations(
                backbone, source, root=folder / "tars", progress=False, precision="32"
            )
        seconds = time.perf_counter() - started
        shutil.rmtree(folder / "tars")
        return seconds

    found = interleaved({BARE: bare.seconds, TARS: to_tars}, rounds)
    return [
        _row("record", "bare forward pass", found, BARE, n_images, backbone.width),
        _row("record", TARS, found, TARS, n_images, backbone.width),
    ]


def _row(what: str, variant: str, found: Rounds, name: str, n: int, d: int) -> Row:
    value, low, high = rate(found, name, n)
    limit = None if name == BARE else BARE
    of = None if limit is None else ratio(found, limit, name)
    batch = defaults("train", "record")["batch_size"]
    return Row(what, variant, d, None, None, batch, torch.get_num_threads(), value, "images/s", limit,
               of, low, high, len(found[name]))  # fmt: skip
