"""What describing latents costs beside running the model: time per image, memory, disk.

    python -m benchmarks.atlas pass          the book-keeping of one pass
    python -m benchmarks.atlas scores        24,576 latents × 150 concepts over 2 M patches

Codes are synthetic, of the size of a dictionary of 24,576 latents with 32 active per token on 196
patches of ViT-B width. ``pass`` measures per image, so fewer images than 50,000 do. Times are
processor seconds, so a shared machine does not change them; set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from scipy import sparse

from saev.atlas.summaries import statistics_of, summarize
from saev.backbones import load_backbone
from saev.codes.part_builder import PartBuilder
from saev.codes.sparse_codes import CodePart
from saev.codes.store import CodeStore
from saev.concepts.best_latents import Concepts, score_concepts

N_LATENTS, N_TOKENS, WIDTH, K, N_CONCEPTS = 24_576, 196, 768, 32, 150
IMAGES_PER_PART = 256
WHOLE = 50_000


def random_part(n_images: int, rng: np.random.Generator) -> CodePart:
    """K different latents on every token, rare and frequent ones."""
    n_rows = n_images * N_TOKENS
    start = (N_LATENTS * rng.random((n_rows, 1)) ** 2).astype(np.int64)
    latent = (start + rng.integers(1, 700, (n_rows, 1)) * np.arange(K)) % N_LATENTS
    row = np.repeat(np.arange(n_rows, dtype=np.int32), K)
    order = latent.ravel().argsort(kind="stable")
    counts = np.bincount(latent.ravel(), minlength=N_LATENTS)
    return CodePart(
        n_tokens=N_TOKENS,
        indptr=np.concatenate([[0], counts.cumsum()]),
        row=row[order],
        value=rng.exponential(size=len(row)).astype(np.float32) + 1e-3,
        normal=np.ones((n_images, N_TOKENS), bool),
        embedding=rng.standard_normal((n_images, WIDTH), np.float32) + 0.3,
    )


def make_store(folder: Path, n_images: int) -> CodeStore:
    """A complete store of random parts."""
    store = CodeStore.create(
        folder, [str(i) for i in range(n_images)], n_latents=N_LATENTS, n_tokens=N_TOKENS,
        identity={}, images_per_part=IMAGES_PER_PART,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    for part in store.missing():
        store.write(part, random_part(len(store.images_of(part)), rng))
    return store


def measure_pass(folder: Path, n_images: int) -> None:
    rates: dict[str, float] = {}
    z = torch.zeros(4, N_TOKENS, N_LATENTS)
    z[..., torch.randperm(N_LATENTS)[:K]] = 1.0
    start = time.process_time()
    builder = PartBuilder(N_LATENTS, N_TOKENS)
    for _ in range(16):
        builder.add(z, torch.ones(4, N_TOKENS, dtype=torch.bool))
    builder.add_outputs(torch.zeros(64, WIDTH), None)
    builder.build()
    rates["dense codes to sparse ones"] = 64 / (time.process_time() - start)
    store = make_store(folder, n_images)
    part = store.read(0)
    start = time.process_time()
    store.write(0, part)
    rates["writing a part"] = part.n_images / (time.process_time() - start)
    start = time.process_time()
    statistics_of(store, np.arange(n_images) % 1000, 0)
    rates["sums (rates, histograms, places, co-activation, class mass)"] = n_images / (
        time.process_time() - start
    )
    start = time.process_time()
    summarize(store, store.embeddings())
    rates["exemplars, deciles, near misses, monosemanticity and its null"] = n_images / (
        time.process_time() - start
    )
    for name, rate in rates.items():
        print(f"{rate:8.1f} images/s   {name}")
    together = 1 / sum(1 / rate for rate in rates.values())
    n_bytes = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    minutes = WHOLE / together / 60
    print(f"{together:8.1f} images/s   all of it: {minutes:.0f} minutes of one core for {WHOLE:,}")
    print(
        f"{backbone_rate():8.1f} images/s   ViT-B/16 alone on the same core (random weights, float32)"
    )
    print(f"disk {n_bytes / n_images * WHOLE / 1e9:.1f} GB for {WHOLE:,} images")


def backbone_rate(n_images: int = 16) -> float:
    """Images per second of ViT-B/16 on this machine."""
    backbone = load_backbone("timm", "vit_base_patch16_224", "random", layer=10)
    pixels = torch.zeros(8, 3, 224, 224)
    with torch.no_grad():
        backbone(pixels)
        start = time.process_time()
        for _ in range(n_images // 8):
            backbone(pixels)
    return n_images / (time.process_time() - start)


def measure_scores(folder: Path, n_images: int, n_permutations: int) -> None:
    store = make_store(folder, n_images)
    rng = np.random.default_rng(1)
    # neighbouring patches belong together: a concept per 49 of them
    concept = np.repeat(rng.integers(0, N_CONCEPTS, n_images * 4), N_TOKENS // 4)
    shape = (n_images * N_TOKENS, N_CONCEPTS)
    labels = sparse.csr_matrix((np.ones(shape[0]), (np.arange(shape[0]), concept)), shape=shape)
    splits = rng.choice(["discovery", "calibration", "test"], n_images, p=[0.52, 0.18, 0.3])
    concepts = Concepts(
        "synthetic", "mask", [str(c) for c in range(N_CONCEPTS)], np.arange(n_images),
        splits.tolist(), labels,
    )  # fmt: skip
    start = time.process_time()
    scores = score_concepts(store, concepts, n_permutations=n_permutations)
    seconds = time.process_time() - start
    print(
        f"{seconds / 60:.1f} processor minutes for {N_LATENTS:,} latents × {N_CONCEPTS} concepts over "
        f"{shape[0] / 1e6:.1f} M patches ({shape[0] * K / 1e6:.0f} M codes), three splits, "
        f"{n_permutations} permutations of maps"
    )
    found = (scores.q[scores.best(), np.arange(N_CONCEPTS)] <= 0.05).mean()
    print(f"{100 * found:.1f} % of the random concepts have a latent with q ≤ 0.05")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["pass", "scores"])
    parser.add_argument("--n-images", type=int, help="default 2,048 for pass, 10,240 for scores")
    parser.add_argument("--n-permutations", type=int, default=200)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.what == "pass":
            measure_pass(Path(folder) / "codes", args.n_images or 2048)
        else:
            measure_scores(Path(folder) / "codes", args.n_images or 10_240, args.n_permutations)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory {peak:.1f} GiB")


if __name__ == "__main__":
    main()
