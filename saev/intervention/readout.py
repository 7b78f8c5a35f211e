"""Readout: any head as units, columns in groups, and the units' labels.

Suffixes: b images, u units, g groups of columns, c columns, h w pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from datamodules.images import ImageItem, ImageSource, ScenesImages
from datamodules.patches import majority_with_share
from datamodules.scenes import ATTRIBUTES, PATCH_ATTRIBUTES
from saev.backbones import Backbone, BackboneOutput
from saev.errors import UserError
from saev.heads import TrainedHead, load_head
from saev.heads.own import make_head
from saev.heads.targets import class_names_of, image_mask
from saev.intervention.judge.tally import Groups

OWN_HEADS = ("classifier", "zero_shot", "attributes")
"""Heads that come with a model, by the name that is given in place of a folder."""

STRATUM = 8
"""Regions of like size that exchange names. With 4, 8, 16 on CamVid (306 regions) 33, 40 and 44 % of the
patches get another name, of the commonest class 14, 18 and 22 %; 0.1, 0.1 and 0.3 % are taken from a
region to make numbers exact, 0.4, 0.5 and 0.7 % in drawn street scenes."""


class UnitLabels(NamedTuple):
    """Ground truth of one image."""

    label: Int64[Tensor, "u g"]
    """Column of each unit per group, −1 where there is none."""
    purity: Float[Tensor, "u g"]
    """Share of the unit's pixels that have this label; 1 for whole images."""


@dataclass(frozen=True)
class Readout:
    """A head with what is needed to ask questions of it."""

    name: str
    per: str
    """What a unit is: "image" or "patch"."""
    concepts: tuple[str, ...]
    """Name of every column; of a head with several groups "group/value"."""
    groups: Groups
    logits: Callable[[BackboneOutput], Float[Tensor, "b u c"]]
    labels: Callable[[ImageItem], UnitLabels]
    module: nn.Module | None = None
    rows: tuple[int, ...] | None = None
    """Positions of the only tokens that the head looks at; None: it may look at anything."""

    def of_acts(
        self, backbone: Backbone, acts: Float[Tensor, "b t d"], layer: int
    ) -> Float[Tensor, "b u c"]:
        """What the head says when the model runs on from these activations at a tap."""
        return self.logits(backbone.resume(acts, layer, self.rows))

    def column(self, concept: str) -> int:
        """Of a concept; raises ``UserError`` for one that the head does not know."""
        known = [c for i, c in enumerate(self.concepts) if i not in self.groups.backgrounds]
        if concept not in known:
            some = ", ".join(known[:8]) + (", …" if len(known) > 8 else "")
            raise UserError(f"the head {self.name} has no class {concept!r}: it knows {some}")
        return self.concepts.index(concept)

    def to(self, device: torch.device) -> Readout:
        if self.module is not None:
            self.module.to(device)
        return self


def make_readout(head: str, backbone: Backbone, source: ImageSource) -> Readout:
    """The readout that ``head=…`` names: a folder with a trained head, or one of ``OWN_HEADS``.

    Raises:
        UserError: no such head; a head trained on another backbone; images without its labels.
    """
    if head == "attributes":
        return _attributes(backbone, source)
    if head in OWN_HEADS:
        return _of_model(head, backbone, source)
    if not Path(head).is_dir():
        raise UserError(
            f"head={head} is no folder: give the head/ folder of a run of saev.train, or one of "
            f"{', '.join(OWN_HEADS)}"
        )
    trained = load_head(head)
    trained.check_backbone(backbone)
    return _trained(trained, backbone, source)


def _trained(head: TrainedHead, backbone: Backbone, source: ImageSource) -> Readout:
    names = class_names_of(source, head.kind)
    columns = head.columns_for(names, source.name)
    backgrounds = frozenset(i for i, name in enumerate(head.class_names) if name == "background")
    groups = Groups(((0, len(head.class_names)),), backgrounds)
    if head.kind != "segmentation":
        rows = head.reading.positions if head.features == "class" else None
        return Readout(
            head.name, "image", tuple(head.class_names), groups,
            lambda output: head(output)[:, None], _image_labels(columns), head, rows,
        )  # fmt: skip

    def labels(item: ImageItem) -> UnitLabels:
        mask = image_mask(source, item, backbone)
        label, purity = _of_patches(mask, backbone.grid, len(names))
        known = torch.where(label >= 0, columns[label.clamp(min=0)], -1)
        return UnitLabels(known[:, None], purity[:, None])

    return Readout(
        head.name, "patch", tuple(head.class_names), groups,
        lambda output: head(output).flatten(2).transpose(1, 2), labels, head,
    )  # fmt: skip


def _of_model(name: str, backbone: Backbone, source: ImageSource) -> Readout:
    names = class_names_of(source, "classification")
    head = make_head(backbone, names, prefer=name)
    columns = names if name == "zero_shot" else list(backbone.class_names or [])
    if head.label_map is None or not columns:
        raise UserError(
            f"the classes of {source.name!r} are not among those of {backbone.name}'s {name}: "
            "train a head on these images"
        )
    return Readout(
        name, "image", tuple(columns), Groups(((0, len(columns)),)),
        lambda output: head(output)[:, None], _image_labels(head.label_map), head,
    )  # fmt: skip


def _attributes(backbone: Backbone, source: ImageSource) -> Readout:
    """Shape, colour and texture of every patch, by the heads the micro ViT was trained with."""
    if backbone.name != "micro" or not isinstance(source, ScenesImages):
        raise UserError("head=attributes belongs to backbone=micro and images=scenes")
    from saev.backbones.micro.micro_vit import load_micro

    heads = load_micro()[2].requires_grad_(False)
    names, spans, backgrounds = [], [], set()
    for attribute in PATCH_ATTRIBUTES:
        first = len(names)
        backgrounds.add(first)
        names += [f"{attribute}/{value}" for value in ("none", *ATTRIBUTES[attribute])]
        spans.append((first, len(names)))

    def logits(output: BackboneOutput) -> Tensor:
        per_patch = heads(output.tokens)[1]
        return torch.cat([per_patch[attribute] for attribute in PATCH_ATTRIBUTES], -1)

    def labels(item: ImageItem) -> UnitLabels:
        scene = source.scene(item)
        found = []
        for attribute, (first, last) in zip(PATCH_ATTRIBUTES, spans, strict=True):
            mask = backbone.mask_transform(getattr(scene, f"{attribute}_mask"))
            label, purity = _of_patches(mask, backbone.grid, last - first)
            found.append((torch.where(label >= 0, label + first, -1), purity))
        return UnitLabels(*(torch.stack(part, -1) for part in zip(*found, strict=True)))

    return Readout(
        "attributes", "patch", tuple(names), Groups(tuple(spans), frozenset(backgrounds)),
        logits, labels, heads,
    )  # fmt: skip


def _image_labels(columns: Int64[Tensor, " n"]) -> Callable[[ImageItem], UnitLabels]:
    def labels(item: ImageItem) -> UnitLabels:
        column = -1 if item.label is None else int(columns[item.label])
        return UnitLabels(torch.tensor([[column]]), torch.ones(1, 1))

    return labels


def _of_patches(
    mask: Int64[Tensor, "h w"], grid: tuple[int, int], n_classes: int
) -> tuple[Int64[Tensor, " u"], Float[Tensor, " u"]]:
    """The class that fills most of each patch (−1: most of it has none) and its share of pixels."""
    label, share = majority_with_share(mask.numpy(), grid, n_classes)
    return torch.from_numpy(label), torch.from_numpy(share).float()


def shuffled(
    labels: Int64[np.ndarray, "n g"],
    image: Int64[np.ndarray, " n"],
    groups: Groups,
    per: str,
    rng: np.random.Generator,
) -> Int64[np.ndarray, "n g"]:
    """Labels without their meaning: columns of units, −1 where there is none and there too.

    Of whole images: permuted among them. Of patches: the regions of a group (all patches of one class
    in one image) are sorted by size, and each ``STRATUM`` that follow each other exchange their names.
    Then the few patches that a class has too many go to those that have too few, as codes that know
    nothing have an F1 and an average precision that depend on the number of patches. So the
    number of every class is exact, and 98 % of the regions stay whole. Backgrounds keep their place.

    A class whose regions are larger than all others, image after image, finds none to exchange with,
    and nothing can be shown of its choice. Permuting masks among images would keep the meaning where
    all images have one layout.
    """
    renamed = labels.copy()
    if per == "image":
        known = np.flatnonzero((labels >= 0).all(1))
        renamed[known] = labels[rng.permutation(known)]
        return renamed
    for g, (first, last) in enumerate(groups.spans):
        concepts = [c for c in range(first, last) if c not in groups.backgrounds]
        rows = np.flatnonzero(np.isin(labels[:, g], concepts))
        renamed[rows, g] = _regions_renamed(labels[rows, g], image[rows], rng)
    return renamed


def _regions_renamed(
    label_n: Int64[np.ndarray, " n"], image_n: Int64[np.ndarray, " n"], rng: np.random.Generator
) -> Int64[np.ndarray, " n"]:
    """Names of regions permuted among those of like size; suffixes: n patches, r regions."""
    n_columns = int(label_n.max(initial=0)) + 1
    key_r, region_n, size_r = np.unique(
        image_n * n_columns + label_n, return_inverse=True, return_counts=True
    )
    by_size = size_r.argsort(kind="stable")
    stratum = np.arange(len(by_size)) // STRATUM
    permuted = np.lexsort((rng.random(len(by_size)), stratum))
    name_r = np.empty_like(key_r)
    name_r[by_size] = (key_r % n_columns)[by_size[permuted]]
    n_named = np.bincount(name_r, size_r, n_columns).astype(np.int64)
    surplus = n_named - np.bincount(label_n, minlength=n_columns)
    return _without_surplus(name_r[region_n], surplus, rng.permutation(len(key_r))[region_n])


def _without_surplus(
    name_n: Int64[np.ndarray, " n"],
    surplus_c: Int64[np.ndarray, " c"],
    order_n: Int64[np.ndarray, " n"],
) -> Int64[np.ndarray, " n"]:
    """What classes have too much, taken from as few regions as it fills and given to the others.

    ``order_n`` ranks the regions, and is the same for all patches of one.
    """
    in_order = order_n.argsort(kind="stable")
    of_class = [in_order[name_n[in_order] == c][: max(n, 0)] for c, n in enumerate(surplus_c)]
    name_n[np.concatenate(of_class)] = np.repeat(
        np.arange(len(surplus_c)), np.maximum(-surplus_c, 0)
    )
    return name_n
