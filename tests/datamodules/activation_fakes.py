"""A backbone and an image source of a few numbers each, and tars without either."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from datamodules.activations.format import Manifest, ShardInfo
from datamodules.activations.norms import measure, median_of, norm_histogram, token_norms
from datamodules.activations.tar import ShardWriter
from datamodules.images.base import Found, ImageItem, ImageSource
from datamodules.images.decode import BrokenImage
from saev.backbones.base import Backbone

WIDTH, SIDE = 6, 8


class TinyBackbone(Backbone):
    """Class token and 2 × 2 patches; block k multiplies by k + 1. ``on_tap`` sees every call."""

    def __init__(self, sha256: str = "ab" * 32, on_tap: Callable[[], None] = lambda: None) -> None:
        nn.Module.__init__(self)
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(3 * 16, WIDTH, generator=generator) / 4
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.family, self.name, self.layer = "tiny", "Tiny ViT/4", 1
        self.width, self.n_blocks, self.grid, self.n_prefix = WIDTH, 3, (2, 2), 1
        self.token_names = ["class", *["patch"] * 4]
        self.image_size = (SIDE, SIDE)
        self.weights = {"kind": "random", "source": "seed 0", "sha256": sha256}
        self.spec = {"family": "tiny", "name": self.name, "weights": "random", "layer": 1}
        self.transform_spec = {"size": [SIDE, SIDE]}
        self.transform = to_tensor  # type: ignore[assignment]
        self.on_tap = on_tap

    def tap(self, images: Tensor, layers: Sequence[int] | None = None) -> dict[int, Tensor]:
        self.on_tap()
        patches = images.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5)
        acts_bpd = patches.reshape(len(images), 4, 48) @ self.weight
        acts_btd = torch.cat([acts_bpd.mean(1, keepdim=True), acts_bpd], 1)
        return {layer: acts_btd * (layer + 1) for layer in layers or [self.layer]}


def to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255 - 0.5


class TinyImages(ImageSource):
    """Random pictures of 8 × 8; every fourth is held out. ``blown_up`` scales the pixels' effect."""

    kind = "tiny"

    def __init__(
        self, n: int = 21, broken: Sequence[int] = (), on_error: str = "raise", n_held_out: int = 4
    ) -> None:
        super().__init__(n_images=None, val_fraction=0.0, on_error=on_error, seed=0)
        self.name, self.class_names = "tiny", ["even", "odd"]
        self.broken = {f"tiny/{i:03d}" for i in broken}
        self._settle(
            Found(f"tiny/{i:03d}", "val" if i < n_held_out else "train", i % 2, f"{i}.png", 1)
            for i in range(n)
        )

    def load(self, item: ImageItem) -> Image.Image:
        if item.image_id in self.broken:
            raise BrokenImage(item.image_id, "it is cut short")
        seed = int(item.image_id.rpartition("/")[2])
        pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        return Image.fromarray(pixels)

    def options(self) -> dict[str, Any]:
        return {}


def write_folder(
    folder: Path,
    train: Sequence[Sequence[np.ndarray]],
    heldout: Sequence[Sequence[np.ndarray]] = (),
    max_norm: float | None = None,
) -> Manifest:
    """A folder of tars: shards of images of (t, d) arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    shards, histogram = [], {}
    for split, group in (("train", train), ("heldout", heldout)):
        for number, images in enumerate(group):
            name = f"{split}-{number:06d}.tar"
            with ShardWriter(folder / name, folder / f"{name}.tmp") as writer:
                for i, acts in enumerate(images):
                    meta = {"image_id": f"{name}/{i}", "split": split}
                    writer.write(f"{i:08d}", acts, meta)
                    if split == "train":
                        for key, count in norm_histogram(token_norms(acts)).items():
                            histogram[key] = histogram.get(key, 0) + count
            n_tokens = sum(len(acts) for acts in images)
            shards.append(
                ShardInfo(name, split, len(images), n_tokens, writer.n_bytes, writer.sha256)
            )
    train_shards = [shard for shard in shards if shard.split == "train"]
    width = train[0][0].shape[1]
    manifest = Manifest(
        id="tiny",
        backbone={"family": "tiny", "name": "Tiny", "weights": {"sha256": "ab" * 32}},
        layer=1,
        width=width,
        grid=[2, 2],
        token_names=["patch"] * 4,
        tokens={"which": "patch", "n_per_image": None, "positions": [0, 1, 2, 3]},
        dtype=str(train[0][0].dtype),
        images={},
        transform={},
        class_names=None,
        skipped=[],
        recording={"seed": 0, "images_per_shard": len(train[0]), "precision": "32"},
        shards=shards,
        statistics=measure(folder, train_shards, median_of(histogram), max_norm),
    )
    manifest.write(folder)
    return manifest


def tagged(n_shards: int, images_per_shard: int, tokens_per_image: int, first: int = 0):
    """Shards whose token number n is (n // 1000, n % 1000, 1), exact in float16."""
    numbers = np.arange(first, first + n_shards * images_per_shard * tokens_per_image)
    acts = np.stack([numbers // 1000, numbers % 1000, np.ones_like(numbers)], 1)
    acts = acts.astype(np.float16).reshape(n_shards, images_per_shard, tokens_per_image, 3)
    return [list(shard) for shard in acts]


def tags(acts: Tensor) -> list[int]:
    """The numbers of tagged tokens."""
    return (acts[:, 0].double() * 1000 + acts[:, 1].double()).long().tolist()


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder, hidden ones included."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
