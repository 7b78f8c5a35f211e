"""Do causal maps say where a latent's evidence lies, and how often is that not where it fires?

    python -m benchmarks.causal_maps measure SAE --out FILE.jsonl
    python -m benchmarks.causal_maps measure SAE --out FILE.jsonl --shard 1 2      one process of two
    python -m benchmarks.causal_maps table FILE.jsonl …
    python -m benchmarks.causal_maps figure SCENES_SAE --out docs/images/causal_maps.png

Latents are drawn from those that fire on three or more images of a pool (drawn from the dictionary's
own images), and for each of them images on which its largest code is at least half of its largest in
the pool. For every such pair the code is followed while patches are inserted into, and deleted from,
the blurred image in the order of four maps: integrated gradients, LRP, codes, and random orders.

A latent counts as better than random where the mean area over its images is better than that of the
random orders. ``moved``: the peaks of map and codes are more than one patch apart.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from datamodules.images import ImageItem, ImageSource
from saev import attribute, open_dictionary
from saev.attribution.attribute import METHODS, Attribution
from saev.attribution.order_curves import PatchMixer
from saev.backbones import Backbone
from saev.editing.tokens import Tokens
from saev.loading import images_for
from saev.sae import SparseAutoencoder

N_POOL = 240
STRONG = 0.5
"""Share of a latent's largest code in the pool that the code on one of its images must reach."""
N_INTEGRAL, N_CURVE, N_RANDOM = 10, 6, 2
BATCH = 16
MAPS = (*METHODS, "codes")
FIGURE_ROWS = 4


def measure(args: argparse.Namespace) -> None:
    """Appends a line per latent and image; the first image of every latent comes first."""
    sae, backbone = open_dictionary(args.sae)
    source = images_for(sae, args.sae, None)
    items = draw_items(source, args.pool, args.seed)
    largest = largest_codes(sae, backbone, source, items)
    pairs = draw_pairs(largest, args.latents, args.images, args.seed)
    number, count = args.shard
    out = Path(args.out)
    for latent, image in islice(pairs, number, None, count):
        pixels = backbone.transform(source.load(items[image]))
        line = {
            "latent": latent,
            "image": items[image].image_id,
            "code": float(largest[image, latent]),
        }
        line |= measure_pair(sae, backbone, pixels, latent)
        with out.open("a") as file:
            file.write(json.dumps(line) + "\n")


def draw_items(source: ImageSource, n: int, seed: int) -> list[ImageItem]:
    chosen = np.random.default_rng(seed).permutation(len(source.items))[:n]
    return [source.items[i] for i in sorted(chosen.tolist())]


@torch.no_grad()
def largest_codes(
    sae: SparseAutoencoder, backbone: Backbone, source: ImageSource, items: list[ImageItem]
) -> Tensor:
    """Largest code of every latent on every image, (images, latents)."""
    assert sae.cfg.tokens is not None
    tokens = Tokens.of(backbone, sae.cfg.tokens["which"])
    found = []
    for first in range(0, len(items), BATCH):
        batch = torch.stack(
            [backbone.transform(source.load(i)) for i in items[first : first + BATCH]]
        )
        acts = backbone.tap(batch)[backbone.layer][:, tokens.positions]
        found.append((sae.encode(acts) * sae.is_normal(acts).unsqueeze(-1)).amax(1))
    return torch.cat(found)


def draw_pairs(
    largest: Tensor, n_latents: int, n_images: int, seed: int
) -> Iterator[tuple[int, int]]:
    """(latent, image): one image of every latent drawn, then a second, and so on."""
    rng = np.random.default_rng(seed)
    strong = (largest >= STRONG * largest.amax(0)) & (largest > 0)
    alive = (strong.sum(0) >= n_images).nonzero()[:, 0].numpy()
    latents = rng.permutation(alive)[:n_latents].tolist()
    images = {k: rng.permutation(strong[:, k].nonzero()[:, 0].numpy())[:n_images] for k in latents}
    yield from ((latent, int(images[latent][n])) for n in range(n_images) for latent in latents)


def measure_pair(
    sae: SparseAutoencoder, backbone: Backbone, pixels: Tensor, latent: int
) -> dict[str, Any]:
    """Areas under the curves of every map, gaps, and distances of peaks."""
    found = {
        method: attribute(
            sae, backbone, pixels, latent, method=method, n_steps=N_INTEGRAL, batch_size=BATCH
        )
        for method in METHODS
    }
    one = found[METHODS[0]]
    by_code = one.code_order
    assert by_code is not None
    mixer = PatchMixer(one.probe, one.image, BATCH)
    curves = mixer.curves(torch.stack([*(own.order for own in found.values()), by_code]), N_CURVE)
    random = mixer.random_curves(N_RANDOM, N_CURVE, seed=latent)
    line: dict[str, Any] = {
        f"{name}/{kind}": areas[row].item()
        for kind, areas in (
            ("insertion", curves.insertion_areas),
            ("deletion", curves.deletion_areas),
        )
        for row, name in enumerate(MAPS)
    }
    line["random/insertion"] = random.insertion_areas.mean().item()
    line["random/deletion"] = random.deletion_areas.mean().item()
    for method, own in found.items():
        line[f"{method}/gap"] = abs(own.gap) / max(abs(own.value - own.baseline_value), 1e-9)
        line[f"{method}/distance"] = own.peak_distance
    return line


def table(args: argparse.Namespace) -> None:
    """Prints the measured table as Markdown."""
    lines = [
        json.loads(line) for path in args.files for line in Path(path).read_text().splitlines()
    ]
    frame = pd.DataFrame(lines)
    print("\n".join(summary(frame)))


def summary(frame: pd.DataFrame) -> list[str]:
    """Rows of Markdown: a map each."""
    by_latent = frame.drop(columns="image").groupby("latent").mean()
    rows = [
        f"{len(by_latent)} latents, {len(frame)} pairs of latent and image.",
        "| order | insertion | deletion | better than random: insertion, deletion, both "
        "| better than codes: insertion, deletion | moved | gap |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in (*MAPS, "random"):
        insertion, deletion = (by_latent[f"{name}/{kind}"] for kind in ("insertion", "deletion"))
        cells = [name, f"{insertion.mean():.2f}", f"{deletion.mean():.2f}"]
        for other in ("random", "codes"):
            up = insertion > by_latent[f"{other}/insertion"]
            down = deletion < by_latent[f"{other}/deletion"]
            shares = [up, down] + ([up & down] if other == "random" else [])
            same = other == name or name == "random"
            cells.append("" if same else ", ".join(f"{100 * s.mean():.0f} %" for s in shares))
        if name in METHODS:
            cells.append(f"{100 * (frame[f'{name}/distance'] > 1).mean():.0f} %")
            cells.append(f"{100 * frame[f'{name}/gap'].median():.1f} %")
        else:
            cells += ["", ""]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def figure(args: argparse.Namespace) -> None:
    """Drawn scenes on which a latent's evidence lies far from where it fires."""
    sae, backbone = open_dictionary(args.sae)
    source = images_for(sae, args.sae, None)
    items = draw_items(source, args.pool, args.seed)
    largest = largest_codes(sae, backbone, source, items)
    found: list[Attribution] = []
    for latent, image in draw_pairs(largest, 60, 1, args.seed):
        pixels = backbone.transform(source.load(items[image]))
        own = attribute(sae, backbone, pixels, latent)
        if (own.peak_distance or 0) > 1:
            found.append(own)
        if len(found) == FIGURE_ROWS:
            break
    draw_figure(found, backbone, Path(args.out))


def draw_figure(found: list[Attribution], backbone: Backbone, path: Path) -> None:
    """A row each: the scene, where the latent fires, what raises it, and the curves of insertion."""
    from matplotlib.figure import Figure

    titles = (
        "scene",
        "where it fires (codes)",
        "what raises it (pixels)",
        "code while patches come in",
    )
    canvas = Figure(figsize=(10, 2.5 * len(found)), layout="constrained")
    axes = canvas.subplots(len(found), 4, squeeze=False)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (backbone.mean, backbone.std))
    for row, own in zip(axes, found, strict=True):
        picture = (own.image * std + mean).clamp(0, 1).permute(1, 2, 0)
        height, width = own.pixels.shape
        for axis in row[:3]:
            axis.imshow(picture, extent=(0, width, height, 0))
            axis.set_axis_off()
        row[1].imshow(own.codes, cmap="inferno", alpha=0.7, extent=(0, width, height, 0))
        top = float(own.pixels.abs().quantile(0.995))
        row[2].imshow(picture.mean(-1), cmap="gray", alpha=0.6, extent=(0, width, height, 0))
        row[2].imshow(own.pixels, cmap="RdBu_r", vmin=-top, vmax=top, alpha=0.75)
        curves = own.insertion_deletion(12)
        for name, one in (
            ("pixels", curves.attribution),
            ("codes", curves.heatmap),
            ("random", curves.random),
        ):
            assert one is not None
            row[3].plot(one.shares, one.insertion.mean(0), label=name)
        row[3].set_xlabel("share of patches")
        row[0].set_title(f"latent {own.latent}", fontsize=9)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(
            f"latent {found[0].latent}: {title}" if title == "scene" else title, fontsize=9
        )
    axes[0, 3].legend(frameon=False, fontsize=8)
    canvas.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    verbs = parser.add_subparsers(required=True)
    for verb in (measure, figure):
        own = verbs.add_parser(verb.__name__)
        own.add_argument("sae")
        own.add_argument("--out", required=True)
        own.add_argument("--pool", type=int, default=N_POOL)
        own.add_argument("--seed", type=int, default=0)
        own.set_defaults(verb=verb)
        if verb is measure:
            own.add_argument("--latents", type=int, default=120)
            own.add_argument("--images", type=int, default=3)
            own.add_argument("--shard", type=int, nargs=2, default=(0, 1))
    printed = verbs.add_parser("table")
    printed.add_argument("files", nargs="+")
    printed.set_defaults(verb=table)
    args = parser.parse_args()
    args.verb(args)


if __name__ == "__main__":
    main()
