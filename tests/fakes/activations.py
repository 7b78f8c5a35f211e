"""Recordings made without a backbone and without images."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from datamodules.activations.format import Manifest, ShardInfo
from datamodules.activations.norms import measure, median_of, norm_histogram, token_norms
from datamodules.activations.tar import ShardWriter


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
