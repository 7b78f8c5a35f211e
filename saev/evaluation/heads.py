"""Evaluation of a trained head: clean, under any edit, and under the control arms of a dictionary.

Shape legend: b images, t tokens, d width, c classes, n scored rows (images or patches).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from datamodules.activations.format import Manifest
from datamodules.activations.tar import iter_samples
from datamodules.features import item_of
from datamodules.images import ImageBatch, ImageItem, ImageSource, image_batches
from datamodules.patches import IGNORE, majority_of_labelled
from saev.backbones import Backbone
from saev.backbones.taps import Edit
from saev.editing import control_arms
from saev.errors import UserError
from saev.evaluation.control import untrained_control
from saev.evaluation.fidelity import predictions_under, recovered
from saev.heads import TrainedHead
from saev.heads.scores import ClassificationScores, SegmentationScores
from saev.heads.targets import class_names_of, image_mask
from saev.metrics.prediction_fidelity import PredictionFidelity
from saev.sae import SparseAutoencoder

RECORDED_BATCH = 64
"""Images whose recorded features are scored at once."""


def evaluate_head(
    head: TrainedHead,
    backbone: Backbone,
    source: ImageSource,
    split: str = "heldout",
    edit: Edit | None = None,
    layer: int | None = None,
    *,
    n_images: int | None = None,
    batch_size: int = 32,
    num_workers: int = 0,
    device: str | torch.device = "cpu",
) -> dict[str, float]:
    """Scores a head on one split of a source, on the model as it is or under an edit.

    ``edit`` maps the residual stream (b, t, d) after block ``layer`` to what goes on from there.
    ``split`` is "train", "heldout", "val" or "test". Gives ``accuracy``, ``cross_entropy``, ``ece``
    and ``accuracy/<class>``, or for segmentation ``miou``, ``patch_accuracy``, ``pixel_accuracy``
    and ``iou/<class>``; nan for a class that does not occur.

    Raises:
        UserError: the head belongs to another backbone, the source has no labels or masks or none
            of the head's classes, the split is empty, or an edit comes without a layer.
    """
    if edit is not None and layer is None:
        raise UserError("an edit needs the block it acts after: give layer=…")
    arms = {} if edit is None else {"edited": edit}
    scores = _Arms(head, backbone, source, arms, layer, device)
    scores.run(_items(source, split, n_images), batch_size, num_workers)
    return scores.of("clean" if edit is None else "edited")


def evaluate_recorded(
    head: TrainedHead, folder: str | Path, backbone: Backbone, source: ImageSource, split: str
) -> dict[str, float]:
    """``evaluate_head`` without an edit, from features recorded before; the model does not run."""
    targets = TARGETS[head.kind](head, backbone, source)
    wanted = {item.image_id for item in _items(source, split, None)}
    scores = targets.scores()
    manifest = Manifest.read(folder)
    held: list[tuple[ImageItem, Tensor]] = []

    def flush() -> None:
        if held:
            rows = torch.stack([rows for _, rows in held]).float()
            scores.update(head.of_rows(rows), *targets([item for item, _ in held]))
            held.clear()

    for shard in manifest.of_split("train" if split == "train" else "heldout"):
        for sample in iter_samples(folder, shard, manifest.rows):
            item = item_of(sample)
            if item.image_id in wanted:
                held.append((item, torch.from_numpy(sample.acts)))
            if len(held) == RECORDED_BATCH:
                flush()
    flush()
    return scores.compute()


def head_fidelity(
    sae: SparseAutoencoder,
    head: TrainedHead,
    backbone: Backbone,
    source: ImageSource,
    *,
    n_images: int | None = None,
    batch_size: int = 32,
    num_workers: int = 0,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> dict[str, float]:
    """What a head loses on held-out images when a dictionary's reconstruction takes over.

    Flat ``fidelity/<metric>/<arm>`` for the arms of ``saev.editing.control_arms``: ``kl`` and
    ``agreement`` with the clean prediction (per image, or per patch for segmentation), and what
    ``evaluate_head`` gives, without single classes; also ``fidelity/kl_recovered``.
    """
    if sae.cfg.layer is None or sae.cfg.tokens is None:
        raise UserError("the SAE does not say which layer and tokens it belongs to")
    layer, which = sae.cfg.layer, sae.cfg.tokens["which"]
    sae, backbone = sae.to(device).eval(), backbone.to(device)
    untrained = untrained_control(sae, backbone, source, seed)
    positions = backbone.token_indices(which).to(device)
    arms = control_arms(sae, untrained, sae.mean, positions)
    scores = _Arms(head, backbone, source, arms, layer, device)
    scores.run(_items(source, "heldout", n_images), batch_size, num_workers)
    flat: dict[str, float] = {}
    for arm in ("clean", *arms):
        values = scores.fidelity[arm].compute()
        flat |= {f"fidelity/{key}/{arm}": float(values[key]) for key in ("kl", "agreement")}
        for key, value in scores.of(arm).items():
            if "/" not in key:
                flat[f"fidelity/{key}/{arm}"] = value
    return flat | recovered(flat)


class ImageTargets:
    """The column of each image's class; −1 where it has none that the head knows."""

    def __init__(self, head: TrainedHead, backbone: Backbone, source: ImageSource) -> None:
        head.check_backbone(backbone)
        self.head, self.backbone, self.source = head, backbone, source
        self.columns = head.columns_for(class_names_of(source, head.kind), source.name)

    def scores(self) -> ClassificationScores | SegmentationScores:
        """Empty, to be updated with logits and what this gives for their images."""
        return ClassificationScores(self.head)

    def __call__(self, items: Sequence[ImageItem]) -> tuple[Tensor, ...]:
        """What ``scores().update`` takes beside the logits."""
        columns = [-1 if item.label is None else int(self.columns[item.label]) for item in items]
        return (torch.tensor(columns, device=self.head.weight.device),)

    def as_rows(
        self, logits: Tensor, targets: tuple[Tensor, ...]
    ) -> tuple[Float[Tensor, "n c"], Int64[Tensor, " n"]]:
        """Single predictions and their columns, −1 for none."""
        return logits, targets[0]


class PatchTargets(ImageTargets):
    """The columns of each image's pixels and patches; 255 where there is none."""

    def __init__(self, head: TrainedHead, backbone: Backbone, source: ImageSource) -> None:
        super().__init__(head, backbone, source)
        lookup = torch.full((IGNORE + 1,), IGNORE)
        lookup[: len(self.columns)] = torch.where(self.columns < 0, IGNORE, self.columns)
        self.lookup = lookup

    def scores(self) -> ClassificationScores | SegmentationScores:
        return SegmentationScores(self.head)

    def __call__(self, items: Sequence[ImageItem]) -> tuple[Tensor, ...]:
        n_classes, grid = len(self.head.class_names), self.backbone.grid
        masks = [self.lookup[image_mask(self.source, item, self.backbone)] for item in items]
        patches = [
            torch.from_numpy(majority_of_labelled(mask.numpy(), grid, n_classes)).view(grid)
            for mask in masks
        ]
        device = self.head.weight.device
        return torch.stack(masks).to(device), torch.stack(patches).to(device)

    def as_rows(
        self, logits: Tensor, targets: tuple[Tensor, ...]
    ) -> tuple[Float[Tensor, "n c"], Int64[Tensor, " n"]]:
        columns = targets[1].flatten()
        rows = logits.flatten(2).transpose(1, 2).flatten(0, 1)
        return rows, torch.where(columns == IGNORE, -1, columns)


TARGETS: dict[str, type[ImageTargets]] = {
    "classification": ImageTargets,
    "class_rows": ImageTargets,
    "segmentation": PatchTargets,
}


class _Arms:
    """One pass: the model up to the tap once per image, the rest of it once per arm."""

    def __init__(
        self,
        head: TrainedHead,
        backbone: Backbone,
        source: ImageSource,
        arms: Mapping[str, Edit],
        layer: int | None,
        device: str | torch.device,
    ) -> None:
        self.device = torch.device(device)
        self.head, self.backbone = head.to(self.device), backbone.to(self.device)
        self.source, self.arms, self.layer = source, arms, layer
        self.targets = TARGETS[head.kind](head, backbone, source)
        names = ("clean", *arms)
        self.scores = {name: self.targets.scores().to(self.device) for name in names}
        self.fidelity = {name: PredictionFidelity().to(self.device) for name in names}

    def run(self, items: list[ImageItem], batch_size: int, num_workers: int) -> None:
        for batch in image_batches(
            self.source,
            items,
            self.backbone.transform,
            batch_size=batch_size,
            num_workers=num_workers,
            description="scoring the head",
        ):
            self._update(batch)

    @torch.no_grad()
    def _update(self, batch: ImageBatch) -> None:
        images, targets = batch.images.to(self.device), self.targets(batch.items)
        if not self.arms:
            self._add("clean", self.head(self.backbone(images)), None, targets)
            return
        layer = self.backbone.resolve_layer(self.layer or 0)
        acts_btd = self.backbone.tap(images, [layer])[layer]
        clean = self.head(self.backbone.resume(acts_btd, layer))
        self._add("clean", clean, clean, targets)
        for name, logits in predictions_under(self.arms, acts_btd, self.backbone, layer, self.head):
            self._add(name, logits, clean, targets)

    def _add(
        self, arm: str, logits: Tensor, clean: Tensor | None, targets: tuple[Tensor, ...]
    ) -> None:
        self.scores[arm].update(logits, *targets)
        if clean is not None:
            rows, columns = self.targets.as_rows(logits, targets)
            self.fidelity[arm].update(rows, self.targets.as_rows(clean, targets)[0], columns)

    def of(self, arm: str) -> dict[str, float]:
        return self.scores[arm].compute()


def _items(source: ImageSource, split: str, n_images: int | None) -> list[ImageItem]:
    items = source.split(split)[:n_images]
    if not items:
        raise UserError(
            f"the image source {source.name!r} has no {split} images to score a head on; give it a "
            "val or test folder, or set images.val_fraction above 0"
        )
    return items
