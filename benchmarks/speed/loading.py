"""Tokens out of activation tars as the trainer gets them, against the two copies that nobody avoids.

Synthetic tars of ViT-B size (width 768, float16, 196 tokens an image) in the page cache.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float16

from benchmarks.speed.rows import Rounds, Row, interleaved, rate, ratio
from datamodules.activations.format import Manifest, ShardInfo
from datamodules.activations.heldout import HeldoutTokens
from datamodules.activations.loader import N_SLOTS, BatchLoader, SizedBatchLoader
from datamodules.activations.module import ActivationDataModule
from datamodules.activations.norms import measure as statistics_of
from datamodules.activations.norms import median_of, norm_histogram, token_norms
from datamodules.activations.tar import ShardWriter
from saev.defaults import defaults

N_TOKENS, WIDTH, IMAGES_PER_SHARD = 196, 768, 256
COPIES, READ = "copies", "read"


def write_tars(
    folder: Path,
    n_images: int,
    acts: Sequence[Float16[np.ndarray, "t d"]] | None = None,
    n_heldout: int = 0,
) -> Manifest:
    """A complete folder of activations, normally distributed or of these images in turn."""
    if acts is None:
        generator = np.random.default_rng(0)
        acts = [generator.standard_normal((N_TOKENS, WIDTH)).astype(np.float16)]
    folder.mkdir(parents=True, exist_ok=True)
    width = acts[0].shape[1]
    meta = {"image_id": "0", "label": None, "split": "train", "path": None, "tokens": None}
    shards = []
    planned = [("train", first, n_images) for first in range(0, n_images, IMAGES_PER_SHARD)]
    planned += [("heldout", 0, n_heldout)] if n_heldout else []
    for number, (split, first, end) in enumerate(planned):
        name, count = f"{split}-{number:06d}.tar", min(IMAGES_PER_SHARD, end - first)
        with ShardWriter(folder / name, folder / f"{name}.tmp") as writer:
            for image in range(first, first + count):
                writer.write(f"{image:08d}", acts[image % len(acts)], meta | {"split": split})
        n_tokens = count * len(acts[0])
        shards.append(ShardInfo(name, split, count, n_tokens, writer.n_bytes, writer.sha256))
    median = median_of(norm_histogram(token_norms(np.concatenate(acts))))
    manifest = Manifest(
        id="synthetic",
        backbone={},
        layer=0,
        width=width,
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
        statistics=statistics_of(
            folder, [one for one in shards if one.split == "train"], median, 3.0
        ),
    )
    manifest.write(folder)
    return manifest


class Copies:
    """Reads the bytes of tokens into a reservoir and gathers as many in random order, in one process."""

    def __init__(self, folder: Path, manifest: Manifest, batch: int, n_slots: int) -> None:
        self.paths = [folder / shard.name for shard in manifest.shards]
        self.batch, n_slots = batch, n_slots // batch * batch
        self.held = np.zeros((n_slots, WIDTH), np.float16)
        self.out = np.empty((batch, WIDTH), np.float16)
        self.order = np.random.default_rng(0).permutation(n_slots)

    def seconds(self, n_batches: int, gathers: bool) -> float:
        """Of so many batches, with the second copy or without."""
        into = self.held.reshape(-1).view(np.uint8).data
        n_bytes, at, n_done = self.batch * WIDTH * 2, 0, 0
        started = time.perf_counter()
        while True:
            for path in self.paths:
                with path.open("rb", buffering=0) as file:
                    while file.readinto(into[at : at + n_bytes]) == n_bytes:
                        at = (at + n_bytes) % len(into)
                        if gathers:
                            chosen = self.order[n_done * self.batch % len(self.order) :][
                                : self.batch
                            ]
                            np.take(self.held, chosen, axis=0, out=self.out, mode="clip")
                        n_done += 1
                        if n_done == n_batches:
                            return time.perf_counter() - started


class Shuffled:
    """The training stream with so many workers, from its second epoch on."""

    def __init__(self, folder: Path, batch: int, workers: int) -> None:
        settings = defaults("data/tars")
        data = ActivationDataModule(
            folder,
            batch,
            reservoir_tokens=settings["reservoir_tokens"],
            num_workers=workers,
            seed=0,
            drop_last=settings["drop_last"],
            max_norm=defaults("train", "tokens")["max_norm"],
            verify_checksums=False,
        )
        data.prepare_data()
        data.setup("fit")
        loader: BatchLoader = data.train_dataloader()
        self.batches, self.n_ready = iter(loader), workers * N_SLOTS
        n_epoch = data.statistics.n_normal // batch
        for _ in range(n_epoch):
            next(self.batches)

    def seconds(self, n_batches: int) -> float:
        """Of so many batches, once those that have been waiting are gone."""
        for _ in range(self.n_ready):
            next(self.batches)
        started = time.perf_counter()
        for _ in range(n_batches):
            next(self.batches)
        return time.perf_counter() - started


def ordered(
    folder: Path, manifest: Manifest, batch: int, workers: int
) -> tuple[SizedBatchLoader, int]:
    """The held-out stream over all of the tars, and its batches."""
    shards = [replace(shard, split="heldout") for shard in manifest.shards]
    tokens = HeldoutTokens(folder, replace(manifest, shards=shards), batch_size=batch)
    return SizedBatchLoader(tokens, workers, pin_memory=False), len(tokens.sizes)


def measure(folder: Path, rounds: int, n_images: int = 4096, batch: int = 16_384) -> list[Row]:
    """Rows of shuffled reading with one and two workers, and of ordered reading."""
    manifest = write_tars(folder, n_images)
    n_slots = defaults("data/tars")["reservoir_tokens"]
    copies = Copies(folder, manifest, batch, n_slots)
    sized, n_batches = ordered(folder, manifest, batch, 1)

    def in_order() -> float:
        started = time.perf_counter()
        for _ in sized:
            pass
        return time.perf_counter() - started

    shuffled = {n: Shuffled(folder, batch, n) for n in (1, 2)}
    found = interleaved(
        {
            COPIES: lambda: copies.seconds(n_batches, gathers=True),
            READ: lambda: copies.seconds(n_batches, gathers=False),
            "1 worker": lambda: shuffled[1].seconds(n_batches),
            "2 workers": lambda: shuffled[2].seconds(n_batches),
            "ordered": in_order,
        },
        rounds,
    )
    n_tokens = n_batches * batch
    return [
        _row("loader_shuffled", "two copies", 1, batch, found, COPIES, n_tokens, None),
        _row("loader_ordered", "one copy", 1, batch, found, READ, n_tokens, None),
        _row("loader_shuffled", "1 worker", 1, batch, found, "1 worker", n_tokens, COPIES),
        _row("loader_shuffled", "2 workers", 2, batch, found, "2 workers", n_tokens, COPIES),
        _row("loader_ordered", "1 worker", 1, batch, found, "ordered", n_images * N_TOKENS, READ),
    ]


def _row(
    what: str, variant: str, threads: int, batch: int, found: Rounds, name: str, n: int,
    limit: str | None,
) -> Row:  # fmt: skip
    value, low, high = rate(found, name, n)
    of = None if limit is None else ratio(found, limit, name)
    ratio_to = None if limit is None else COPIES
    return Row(what, variant, WIDTH, None, None, batch, threads, value, "tokens/s", ratio_to, of,
               low, high, len(found[name]))  # fmt: skip
