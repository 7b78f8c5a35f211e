"""A planted model with a head that reads every other feature, and what it answers.

Suffixes: `b` images, `p` patches, `t` tokens, `d` width, `m` features, `c` classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from benchmarks.planted import World
from datamodules.images import ImageItem, image_batches
from datamodules.images.masked import MaskedImages
from datamodules.patches import IGNORE
from saev.backbones import Backbone
from saev.backbones.planted_features import PlantedFeatures, plant
from saev.heads import Reading, TrainedHead, backbone_identity


class Sizes(NamedTuple):
    """Numbers of images."""

    head: int = 240
    """That train the head."""
    discovery: int = 120
    """On which the experiment chooses latents."""
    test: int = 32
    """On which hypotheses are tested and edits are named."""


SIZES = Sizes()


class Readers(NamedTuple):
    """The planted model, a head that reads its even features, and images labelled by them."""

    backbone: Backbone
    features: PlantedFeatures
    head: TrainedHead
    source: MaskedImages
    read: list[int]
    """Feature of each class of the head after the first, which is the background."""
    discovery: list[ImageItem]
    test: list[ImageItem]


def labels_of(
    strengths: Float[np.ndarray, "*b p m"], read: Sequence[int]
) -> Int[np.ndarray, "*b p"]:
    """0 where no feature that is read is on, 1 + its place where one is, IGNORE where several are."""
    on = strengths[..., list(read)] > 0
    found = np.where(on.any(-1), on.argmax(-1) + 1, 0)
    return np.where(on.sum(-1) > 1, IGNORE, found)


@torch.no_grad()
def make_readers(world: World, strength: float, sizes: Sizes = SIZES) -> Readers:
    """Labels the images that are needed and trains the head on some of them."""
    features = world.at(strength)
    backbone = plant(world.backbone, features)
    read = [m for m in range(len(features.rates)) if features.leaders[m] < 0]
    train, test = world.source.split("train"), world.source.split("heldout")[: sizes.test]
    discovery = train[sizes.head : sizes.head + sizes.discovery]
    items = [*train[: sizes.head], *discovery, *test]
    masks, rows, labels = {}, [], []
    reading = Reading.of("patches", backbone)
    for batch in image_batches(
        world.source, items, backbone.transform, batch_size=16, num_workers=0, description="head"
    ):
        found = labels_of(
            features.strengths(batch.images, backbone.grid[0] * backbone.grid[1]), read
        )
        for item, label_p in zip(batch.items, found, strict=True):
            masks[item.image_id] = as_mask(label_p, backbone)
        if len(rows) * 16 < sizes.head:
            rows.append(reading(backbone(batch.images)).flatten(0, 1))
            labels.append(found.ravel())
    names = ["background", *(f"feature {m}" for m in read)]
    source = MaskedImages(world.source, masks, names)
    head = fit_head(torch.cat(rows), np.concatenate(labels), names, backbone)
    return Readers(backbone, features, head, source, read, discovery, test)


def as_mask(label_p: Int[np.ndarray, " p"], backbone: Backbone) -> np.ndarray:
    """A class per pixel from a class per patch."""
    grid = label_p.reshape(backbone.grid).astype(np.uint8)
    repeats = [
        side // cells for side, cells in zip(backbone.image_size, backbone.grid, strict=True)
    ]
    return grid.repeat(repeats[0], 0).repeat(repeats[1], 1)


def fit_head(
    rows: Float[Tensor, "n d"], labels: Int[np.ndarray, " n"], names: list[str], backbone: Backbone
) -> TrainedHead:
    """Logistic regression on standardised rows, a class per patch."""
    from sklearn.linear_model import LogisticRegression

    known = labels != IGNORE
    x, y = rows.numpy()[known], labels[known]
    mean, std = x.mean(0), x.std(0)
    fitted = LogisticRegression(C=1.0, max_iter=100).fit((x - mean) / std, y)
    weight, bias = np.zeros((len(names), x.shape[1])), np.full(len(names), -30.0)
    weight[fitted.classes_] = fitted.coef_ / std
    bias[fitted.classes_] = fitted.intercept_ - weight[fitted.classes_] @ mean
    return TrainedHead(
        "segmentation", Reading.of("patches", backbone), names, backbone_identity(backbone),
        torch.from_numpy(weight), torch.from_numpy(bias),
    )  # fmt: skip


class Prepared(NamedTuple):
    """Test images at the tap."""

    acts: Float[Tensor, "b t d"]
    strengths: Float[np.ndarray, "b p m"]
    base: Int[Tensor, "b p"]
    """Class that the untouched planted model gives each patch."""


@torch.no_grad()
def prepare(readers: Readers, items: Sequence[ImageItem]) -> Prepared:
    acts, strengths = [], []
    backbone = readers.backbone
    for batch in image_batches(
        readers.source, items, backbone.transform, batch_size=16, num_workers=0, description="test"
    ):
        acts.append(backbone.tap(batch.images)[backbone.layer])
        n_patches = backbone.grid[0] * backbone.grid[1]
        strengths.append(readers.features.strengths(batch.images, n_patches))
    acts_btd = torch.cat(acts)
    return Prepared(acts_btd, np.concatenate(strengths), classes(readers, acts_btd))


@torch.no_grad()
def classes(readers: Readers, acts: Float[Tensor, "b t d"]) -> Int[Tensor, "b p"]:
    """The head's class of every patch when the model runs on from these activations."""
    found = readers.head(readers.backbone.resume(acts, readers.backbone.layer))
    return found.flatten(2).argmax(1)


def change(
    readers: Readers, prepared: Prepared, acts: Float[Tensor, "b t d"]
) -> Float[np.ndarray, " c"]:
    """Share of each class's patches whose class is another one now; nan for a class without any."""
    moved = (classes(readers, acts) != prepared.base).flatten().numpy()
    base, n = prepared.base.flatten().numpy(), len(readers.read) + 1
    with np.errstate(invalid="ignore"):
        return np.bincount(base, moved, n) / np.bincount(base, minlength=n)
