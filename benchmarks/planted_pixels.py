"""Does a dictionary of a real model find what was pasted into photographs?
``python -m benchmarks.planted_pixels --data ../shared/data``

Textures and objects of known colours and sizes are pasted into photographs, each kind into a random
half of them (``datamodules.images.pasted``). Dictionaries are fitted to ViT-Tiny's patches after a
block; a kind is recovered where one latent, chosen on the training photographs, says on held-out
ones which patches show it.

Suffixes: `n` tokens, `d` width, `c` kinds.
"""

import argparse
import logging
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from benchmarks.planted import BASELINES, MAX_NORM, RECOVERED, VARIANTS, interval, keep
from datamodules.images import image_batches
from datamodules.images.pasted import PastedImages
from datamodules.patches import patch_shares
from datamodules.progress import progress_bars
from saev import fit_dictionary, load_backbone
from saev.backbones import Backbone
from saev.concepts.known_features import Predictors, best_predictors, encode_tokens
from saev.sae import SparseAutoencoder

SHOWN = 0.5
"""Share of a patch that a kind must cover to count as there; patches that show less of it are left out
of its scores on both sides."""


class Patches(NamedTuple):
    """Patches of some images at the tap."""

    acts: Float[Tensor, "n d"]
    shows: Bool[np.ndarray, "n c"]
    clear: Bool[np.ndarray, " n"]
    """Patches that show at least ``SHOWN`` of a kind, or nothing of any."""

    def first(self, n: int) -> "Patches":
        return Patches(self.acts[:n], self.shows[:n], self.clear[:n])


@torch.no_grad()
def read_patches(backbone: Backbone, source: PastedImages, split: str) -> Patches:
    """The patches after the backbone's block, half precision, images in order."""
    acts, shares = [], []
    items = source.split(split)
    for batch in image_batches(
        source, items, backbone.transform, batch_size=32, num_workers=0, description=split
    ):
        found = backbone.tap(batch.images)[backbone.layer][:, backbone.n_prefix :]
        acts.append(found.flatten(0, 1).half())
        for item in batch.items:
            mask = backbone.mask_transform(source.mask(item)).numpy()
            shares.append(patch_shares(mask, backbone.grid, 1 + len(source.kinds))[:, 1:-1])
    share_nc = np.concatenate(shares)
    shows = share_nc >= SHOWN
    return Patches(torch.cat(acts), shows, shows.any(1) | (share_nc == 0).all(1))


def predict(sae: SparseAutoencoder, train: Patches, test: Patches, n: int = 80_000) -> Predictors:
    """Latents chosen on training patches, scored on held-out ones."""
    sides = []
    for part in (train.first(n), test):
        rows = part.clear & sae.is_normal(part.acts.float()).numpy()
        sides.append((encode_tokens(sae, part.acts[torch.from_numpy(rows)]), part.shows[rows]))
    return best_predictors(*sides)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="caltech26, imagenet1000, vit_tiny"
    )
    parser.add_argument("--only", nargs="*", default=[*VARIANTS, *BASELINES])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--expansion", type=int, default=4)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--cache", type=Path, help="file that keeps the tokens between calls")
    parser.add_argument("--out", type=Path, default=Path("outputs/planted_pixels.jsonl"))
    args = parser.parse_args()
    logging.getLogger("saev").setLevel(logging.ERROR)
    with progress_bars(False):
        run(args)


def run(args: argparse.Namespace) -> None:
    backbone = load_backbone(
        "vit_tiny", weights=str(args.data / "vit_tiny/timm.safetensors"), layer=10, crop_pct=1.0
    )
    roots = [str(args.data / name) for name in ("caltech26", "imagenet1000")]
    source = PastedImages(roots, val_fraction=0.0)
    if args.cache is not None and args.cache.is_file():
        train, test = (Patches(*part) for part in torch.load(args.cache, weights_only=False))
    else:
        train, test = (read_patches(backbone, source, which) for which in ("train", "heldout"))
        if args.cache is not None:
            torch.save((tuple(train), tuple(test)), args.cache)
    for name in args.only:
        start, found, l0 = time.monotonic(), [], []
        for seed in range(args.seeds):
            size = {} if name in ("random", "pca", "ica", "raw") else {"expansion": args.expansion}
            if name in VARIANTS:
                size["dead_after_tokens"] = 50 * args.batch_size
            sae = fit_dictionary(
                train.acts.float(), model=name, max_steps=args.steps, batch_size=args.batch_size,
                seed=seed, accelerator="cpu", val_fraction=0.0, progress=False, max_norm=MAX_NORM,
                **size,
            )  # fmt: skip
            found.append(predict(sae, train, test))
            l0.append(encode_tokens(sae, test.acts[:8192]).nnz / 8192)
        f1 = np.stack([one.f1 for one in found])
        keep(args.out, {
            "dictionary": name, "seeds": args.seeds, "recovered": interval(f1 >= RECOVERED),
            "f1": interval(f1), "auroc": float(np.mean([one.auroc for one in found])),
            "f1_by_kind": dict(zip(source.kinds, f1.mean(0).round(3).tolist(), strict=True)),
            "l0": float(np.mean(l0)), "seconds": round(time.monotonic() - start),
        })  # fmt: skip


if __name__ == "__main__":
    main()
