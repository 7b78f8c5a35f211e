"""Scores of a head: accuracy, IoU and calibration from one confusion matrix over everything seen.

Shape legend: b batch, c classes, h w pixels, gh gw patch grid.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn
from torchmetrics.classification import (
    MulticlassCalibrationError,
    MulticlassConfusionMatrix,
)

from datamodules.patches import IGNORE
from saev.heads.trained import TrainedHead

N_BINS = 15
"""Of the calibration error, as in Guo et al. 2017 (arXiv 1706.04599)."""


class Shares(NamedTuple):
    """What a confusion matrix says."""

    accuracy: float
    """Share of labelled examples whose arg-max is their class (micro-averaged)."""
    mean_iou: float
    """Mean of ``iou`` over the classes that occur, in labels or predictions."""
    accuracy_per_class: Float[Tensor, " c"]
    """Share of each class's examples that are predicted as it; nan for a class without examples."""
    iou: Float[Tensor, " c"]
    """True positives / (labelled or predicted so); nan for a class that does not occur."""


def shares_of(confusion: Int64[Tensor, "c c"]) -> Shares:
    """From counts with labels in rows and predictions in columns.

    The values of torchmetrics' MulticlassAccuracy(average="micro") and MulticlassJaccardIndex, but
    with nan where those show an absent class as 0.
    """
    counts = confusion.double()
    hits, labelled, predicted = counts.diag(), counts.sum(1), counts.sum(0)
    iou = hits / (labelled + predicted - hits)  # 0 / 0 is nan: absent
    return Shares(
        accuracy=float(hits.sum() / counts.sum()),
        mean_iou=float(iou.nanmean()),
        accuracy_per_class=(hits / labelled).float(),
        iou=iou.float(),
    )


class ClassificationScores(nn.Module):
    """Micro-averaged accuracy, per-class accuracy, cross-entropy and calibration of a head.

    ``ece`` is the expected calibration error with 15 bins (Guo et al. 2017): the mean gap between
    confidence and accuracy; 0 for a calibrated head.
    """

    def __init__(self, head: TrainedHead) -> None:
        super().__init__()
        self.class_names = head.class_names
        n_classes = len(head.class_names)
        self.confusion = MulticlassConfusionMatrix(n_classes)
        self.calibration = MulticlassCalibrationError(n_classes, n_bins=N_BINS, norm="l1")
        self.register_buffer("loss", torch.zeros((), dtype=torch.float64))
        self.n = 0

    def update(self, logits_bc: Float[Tensor, "b c"], columns_b: Int64[Tensor, " b"]) -> None:
        """Adds images; a negative column leaves an image out."""
        known = columns_b >= 0
        if not known.any():
            return
        logits_bc, columns_b = logits_bc[known].float(), columns_b[known]
        self.n += len(columns_b)
        self.loss += nn.functional.cross_entropy(logits_bc.double(), columns_b, reduction="sum")
        self.confusion.update(logits_bc.argmax(1), columns_b)
        self.calibration.update(logits_bc.softmax(1), columns_b)

    def compute(self) -> dict[str, float]:
        """``accuracy``, ``cross_entropy`` (nats), ``ece`` and ``accuracy/<class>``."""
        if self.n == 0:
            return {}
        shares = shares_of(self.confusion.compute().cpu())
        return {
            "accuracy": shares.accuracy,
            "cross_entropy": float(self.loss) / self.n,
            "ece": float(self.calibration.compute()),
            **_per_class("accuracy", self.class_names, shares.accuracy_per_class),
        }


class SegmentationScores(nn.Module):
    """Mean IoU and accuracy of a head, over pixels and over patches.

    Pixels: arg-max of the bilinearly up-sampled logits against the mask at the model's resolution.
    Patches: arg-max of each patch's logits against its most frequent class. Both over the whole
    data set at once; where the label is 255 nothing counts.
    """

    def __init__(self, head: TrainedHead) -> None:
        super().__init__()
        self.head, self.class_names = head, head.class_names
        n_classes = len(head.class_names)
        self.pixels = MulticlassConfusionMatrix(n_classes, ignore_index=IGNORE)
        self.patches = MulticlassConfusionMatrix(n_classes, ignore_index=IGNORE)

    def update(
        self,
        logits_bcgg: Float[Tensor, "b c gh gw"],
        masks_bhw: Int[Tensor, "b h w"],
        patches_bgg: Int[Tensor, "b gh gw"],
    ) -> None:
        """Adds images: logits per patch, columns per pixel and per patch."""
        self.patches.update(logits_bcgg.argmax(1), patches_bgg)
        size = (masks_bhw.shape[1], masks_bhw.shape[2])
        for logits_cgg, mask_hw in zip(logits_bcgg, masks_bhw, strict=True):  # 150 classes × 224²
            upsampled = self.head.upsample(logits_cgg[None].float(), size)
            self.pixels.update(upsampled.argmax(1), mask_hw[None])

    def compute(self) -> dict[str, float]:
        """``miou``, ``pixel_accuracy``, ``patch_miou``, ``patch_accuracy`` and ``iou/<class>``.

        ``miou`` and ``iou`` are of pixels.
        """
        shares = shares_of(self.pixels.compute().cpu())
        patches = shares_of(self.patches.compute().cpu())
        return {
            "miou": shares.mean_iou,
            "pixel_accuracy": shares.accuracy,
            "patch_miou": patches.mean_iou,
            "patch_accuracy": patches.accuracy,
            **_per_class("iou", self.class_names, shares.iou),
        }


def _per_class(prefix: str, names: list[str], values: Float[Tensor, " c"]) -> dict[str, float]:
    """nan for an absent class; names without what MLflow refuses in the name of a metric."""
    plain = [re.sub(r"[^\w .-]", "-", name) for name in names]
    return {f"{prefix}/{name}": value for name, value in zip(plain, values.tolist(), strict=True)}
