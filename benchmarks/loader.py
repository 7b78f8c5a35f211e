"""Shuffled tokens per second that training can draw from activation tars.

    python -m benchmarks.loader

Writes synthetic tars of ViT-B size into a temporary folder (width 768, float16, 196 tokens per
image, 1.2 GB, so they stay in the page cache) and takes batches from the data module as the
trainer does, with the default limit on norms in force. Target: 350 k tokens/s on two cores.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from datamodules.activations.format import Manifest, ShardInfo
from datamodules.activations.module import ActivationDataModule
from datamodules.activations.norms import measure, median_of, norm_histogram, token_norms
from datamodules.activations.tar import ShardWriter
from saev.defaults import defaults

N_TOKENS, WIDTH, IMAGES_PER_SHARD = 196, 768, 256
TARGET = 350_000


def write_tars(folder: Path, n_images: int) -> None:
    """A complete folder of normally distributed activations."""
    generator = np.random.default_rng(0)
    acts = generator.standard_normal((N_TOKENS, WIDTH)).astype(np.float16)
    meta = {"image_id": "0", "label": None, "split": "train", "path": None, "tokens": None}
    shards = []
    for first in range(0, n_images, IMAGES_PER_SHARD):
        name, count = f"train-{len(shards):06d}.tar", min(IMAGES_PER_SHARD, n_images - first)
        with ShardWriter(folder / name, folder / f"{name}.tmp") as writer:
            for image in range(first, first + count):
                writer.write(f"{image:08d}", acts, meta)
        shards.append(
            ShardInfo(name, "train", count, count * N_TOKENS, writer.n_bytes, writer.sha256)
        )
    median = median_of(norm_histogram(token_norms(acts)))
    Manifest(
        id="synthetic",
        backbone={},
        layer=0,
        width=WIDTH,
        grid=[14, 14],
        token_names=["patch"] * N_TOKENS,
        tokens={"which": "patch", "n_per_image": None, "positions": list(range(N_TOKENS))},
        dtype="float16",
        images={},
        transform={},
        class_names=None,
        skipped=[],
        recording={},
        shards=shards,
        statistics=measure(folder, shards, median, 3.0),
    ).write(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-images", type=int, default=4096)
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each repeat")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_tars(Path(folder), args.n_images)
        data_defaults = defaults("train", "data")
        data = ActivationDataModule(
            folder,
            args.batch_size,
            reservoir_tokens=data_defaults["reservoir_tokens"],
            num_workers=args.workers,
            seed=0,
            drop_last=data_defaults["drop_last"],
            max_norm=defaults("train", "tokens")["max_norm"],
            verify_checksums=False,
        )
        data.prepare_data()
        data.setup("fit")
        batches = iter(data.train_dataloader())
        for _ in range(64):  # reservoirs fill, queues reach their steady state
            next(batches)
        rates, n_images = [], []
        for _ in range(args.repeats):
            n_tokens, start = 0, time.perf_counter()
            while time.perf_counter() - start < args.seconds:
                batch = next(batches)
                n_tokens += len(batch.acts)
                n_images.append(batch.n_images)
            rates.append(n_tokens / (time.perf_counter() - start))
    print(
        f"{statistics.median(rates):,.0f} shuffled tokens/s "
        f"(median of {len(rates)}, {min(rates):,.0f} to {max(rates):,.0f}; target {TARGET:,})"
    )
    print(
        f"{statistics.median(n_images):.0f} distinct images in a batch of {args.batch_size:,} "
        f"(d = {WIDTH}, float16 on disk, float32 in the batch, {args.workers} workers)"
    )


if __name__ == "__main__":
    main()
