"""Does a dictionary of a real model find features that are known, and does the experiment know which
of them act? ``python -m benchmarks.planted --data ../shared/data``

Sparse features of known direction, rate and length are planted in ViT-Tiny after a block
(``saev.backbones.planted_features``), on photographs. Every variant and baseline is fitted to the
patches and scored on held-out photographs: recovery, splitting, absorption. A head that reads every
other feature then gives the controlled experiment hypotheses that are known to be true or false
(``benchmarks.planted_causes``).

Suffixes: `n` tokens, `d` width, `m` features.
"""

import argparse
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.images import ImageSource, image_batches
from datamodules.images.pasted import PastedImages
from datamodules.progress import progress_bars
from saev import fit_dictionary, load_backbone
from saev.backbones import Backbone
from saev.backbones.planted_features import PlantedFeatures, plant
from saev.concepts.known_features import (
    Carriers,
    Predictors,
    best_predictors,
    carriers,
    detector_codes,
    encode_tokens,
)
from saev.defaults import defaults
from saev.sae import SparseAutoencoder

STRENGTHS = (0.3, 0.5, 0.8, 1.25, 2.0)
"""Lengths of the features over the root mean square distance of tokens from their mean. Chosen by the
best linear detector that knows the directions, before any dictionary was fitted."""
MIDDLE = STRENGTHS[2]
MAX_NORM = defaults("train", "tokens")["max_norm"]
"""Over the median norm, as in training."""
RECOVERED = 0.9
"""F1 from which a feature counts as recovered."""
VARIANTS = (
    "topk", "batch_topk", "matryoshka", "multi_topk", "archetypal", "jump_relu", "jump_relu_tanh",
    "gated", "relu", "relu_free_norm", "p_anneal", "frozen_decoder",
)  # fmt: skip
BASELINES = ("untrained", "random", "pca", "ica", "kmeans", "semi_nmf", "raw")


class Tokens(NamedTuple):
    """The patches of some images at the tap, without features, and what is to be planted in them."""

    clean: Float[Tensor, "n d"]
    strengths: Float[np.ndarray, "n m"]
    """Multiples of each feature's length, 0 where it is off."""

    def planted(self, features: PlantedFeatures) -> Float[Tensor, "n d"]:
        """What the planted model has at the tap."""
        return self.clean.float() + features.added(self.strengths)

    def first(self, n: int) -> "Tokens":
        return Tokens(self.clean[:n], self.strengths[:n])

    def shorter_than(self, limit: float) -> "Tokens":
        kept = self.clean.float().norm(dim=1) <= limit
        return Tokens(self.clean[kept], self.strengths[kept.numpy()])


class World(NamedTuple):
    """A backbone, features of length 1 and the tokens of the images."""

    backbone: Backbone
    source: ImageSource
    features: PlantedFeatures
    spread: float
    """Root mean square distance of a training token from the mean, raw units."""
    train: Tokens
    test: Tokens

    def at(self, strength: float) -> PlantedFeatures:
        """The features at a strength in units of the spread."""
        return self.features.longer(strength * self.spread)


@torch.no_grad()
def read_tokens(
    backbone: Backbone, source: ImageSource, split: str, features: PlantedFeatures
) -> Tokens:
    """The patches after the backbone's block, half precision, images in order."""
    acts, strengths = [], []
    items = source.split(split)
    for batch in image_batches(
        source, items, backbone.transform, batch_size=32, num_workers=0, description=split
    ):
        found = backbone.tap(batch.images)[backbone.layer][:, backbone.n_prefix :]
        acts.append(found.flatten(0, 1).half())
        strengths.append(features.strengths(batch.images, found.shape[1]))
    return Tokens(torch.cat(acts), np.concatenate(strengths).reshape(-1, len(features.rates)))


def make_world(backbone: Backbone, source: ImageSource, n_features: int, **drawn: Any) -> World:
    """Reads every image once, without features; tokens of abnormal norm are left out."""
    features = PlantedFeatures.draw(n_features, backbone.width, 1.0, **drawn)
    train, test = (read_tokens(backbone, source, which, features) for which in ("train", "heldout"))
    limit = MAX_NORM * float(train.clean.float().norm(dim=1).median())
    train, test = train.shorter_than(limit), test.shorter_than(limit)
    x = train.clean.float()
    spread = float((x - x.mean(0)).square().sum(1).mean().sqrt())
    return World(backbone, source, features, spread, train, test)


def fit(
    world: World,
    name: str,
    strength: float,
    seed: int,
    *,
    n_steps: int,
    batch_size: int,
    **more: Any,
) -> SparseAutoencoder:
    """A dictionary of the planted model, that says so."""
    features = world.at(strength)
    size = {} if name in ("random", "pca", "ica", "raw") else {"expansion": more.pop("expansion")}
    more.pop("expansion", None)
    if name in VARIANTS:
        more["dead_after_tokens"] = 50 * batch_size
    sae = fit_dictionary(
        world.train.planted(features), model=name, max_steps=n_steps, batch_size=batch_size,
        seed=seed, accelerator="cpu", val_fraction=0.0, progress=False, **size, **more,
    )  # fmt: skip
    model = plant(world.backbone, features)
    identity = {key: getattr(model, key) for key in ("family", "name", "weights", "spec")}
    sae.cfg = replace(sae.cfg, backbone=identity, layer=model.layer, tokens={"which": "patch"})
    return sae


class Score(NamedTuple):
    """Of one dictionary at one strength."""

    predictors: Predictors
    carriers: Carriers
    explained_variance: float
    l0: float


def score(sae: SparseAutoencoder, world: World, strength: float, n_choose: int = 80_000) -> Score:
    """Latents chosen on training tokens, scored on held-out ones."""
    features = world.at(strength)
    choose = world.train.first(n_choose)
    x = world.test.planted(features)
    codes = encode_tokens(sae, x)
    found = best_predictors(
        (encode_tokens(sae, choose.planted(features)), choose.strengths > 0),
        (codes, world.test.strengths > 0),
    )
    lengths = world.test.strengths * features.lengths
    split = carriers(sae, codes, lengths, features.directions, found)
    some = x[:: max(1, len(x) // 20_000)]
    error = (some - sae.reconstruct(some)).square().sum()
    variation = (some - some.mean(0)).square().sum()
    return Score(found, split, float(1 - error / variation), codes.nnz / len(x))


def detector(world: World, strength: float, n_choose: int = 80_000) -> Predictors:
    """The best linear detector with known directions: the ceiling."""
    features, choose = world.at(strength), world.train.first(n_choose)
    clean = world.train.clean.float()
    return best_predictors(
        (
            detector_codes(choose.planted(features), features.directions, clean),
            choose.strengths > 0,
        ),
        (
            detector_codes(world.test.planted(features), features.directions, clean),
            world.test.strengths > 0,
        ),
    )


def interval(values: Sequence[float] | np.ndarray, n: int = 2000) -> tuple[float, float, float]:
    """Mean of a row per seed over features, with a 95 % bootstrap interval over features."""
    value_m = np.atleast_2d(np.asarray(values, float)).mean(0)
    rng = np.random.default_rng(0)
    drawn = value_m[rng.integers(len(value_m), size=(n, len(value_m)))].mean(1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(value_m.mean()), float(low), float(high)


def row(name: str, strength: float, scores: Sequence[Score]) -> dict[str, Any]:
    """A line of the table: means over seeds and features."""
    f1 = np.stack([s.predictors.f1 for s in scores])

    def mean(*path: str) -> float:
        return float(np.mean([getattr(getattr(s, path[0]), path[1]) for s in scores]))

    return {
        "dictionary": name,
        "strength": strength,
        "seeds": len(scores),
        "recovered": interval(f1 >= RECOVERED),
        "f1": mean("predictors", "f1"),
        "auroc": mean("predictors", "auroc"),
        "cosine": mean("carriers", "best_cosine"),
        "cosine_09": float(np.mean([s.carriers.best_cosine >= 0.9 for s in scores])),
        "n_carriers": float(np.mean([s.carriers.carries.sum(0) for s in scores])),
        "split": float(np.mean([s.carriers.carries.sum(0) > 1 for s in scores])),
        "silent": mean("carriers", "silent"),
        "absorbed": mean("carriers", "absorbed"),
        "explained_variance": float(np.mean([s.explained_variance for s in scores])),
        "l0": float(np.mean([s.l0 for s in scores])),
        "f1_by_rate": f1.mean(0).round(3).tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="caltech26, imagenet1000, vit_tiny"
    )
    parser.add_argument("--features", type=int, default=24)
    parser.add_argument("--only", nargs="*", default=[*VARIANTS, *BASELINES])
    parser.add_argument("--strengths", type=float, nargs="*", default=[MIDDLE])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--expansion", type=int, default=4)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument(
        "--causes", nargs="*", help="name by effect, and run the experiment with these dictionaries"
    )
    parser.add_argument("--cache", type=Path, help="file that keeps the tokens between calls")
    parser.add_argument("--out", type=Path, default=Path("outputs/planted.jsonl"))
    args = parser.parse_args()
    logging.getLogger("saev").setLevel(logging.ERROR)
    with progress_bars(False):
        run(args)


def run(args: argparse.Namespace) -> None:
    backbone = load_backbone(
        "vit_tiny", weights=str(args.data / "vit_tiny/timm.safetensors"), layer=10, crop_pct=1.0
    )
    roots = [str(args.data / name) for name in ("caltech26", "imagenet1000")]
    source = PastedImages(roots, kinds=(), val_fraction=0.0)
    if args.cache is not None and args.cache.is_file():
        tokens = torch.load(args.cache, weights_only=False)
        world = World(backbone, source, *tokens)
    else:
        world = make_world(backbone, source, args.features)
        if args.cache is not None:
            torch.save(tuple(world)[2:], args.cache)
    for strength in args.strengths:
        readers = None
        if args.causes is not None:
            from benchmarks.planted_causes import causes
            from benchmarks.planted_readers import make_readers

            readers = make_readers(world, strength)
        f1 = detector(world, strength).f1
        keep(args.out, {"dictionary": "detector", "strength": strength,
                        "recovered": interval(f1 >= RECOVERED), "f1": float(f1.mean())})  # fmt: skip
        for name in args.only:
            start, scores = time.monotonic(), []
            for seed in range(args.seeds):
                sae = fit(
                    world, name, strength, seed, n_steps=args.steps, batch_size=args.batch_size,
                    expansion=args.expansion,
                )  # fmt: skip
                scores.append(score(sae, world, strength))
                if readers is not None:
                    found = causes(
                        sae, scores[-1], world, readers,
                        with_experiment=name in args.causes,
                    )  # fmt: skip
                    keep(
                        args.out, {"dictionary": name, "strength": strength, "seed": seed, **found}
                    )
            seconds = round(time.monotonic() - start)
            keep(args.out, {**row(name, strength, scores), "seconds": seconds})


def keep(path: Path, line: dict[str, Any]) -> None:
    """Appends a line of JSON and prints it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(line)
    with path.open("a") as file:
        file.write(text + "\n")
    print(text, flush=True)


if __name__ == "__main__":
    main()
