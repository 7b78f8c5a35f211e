"""LightningModules that train a grid of linear heads on one stream of features.

Shape legend: g members of the grid, m = 2g heads in training, b rows of a batch, e width of a row,
c classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple, cast

import lightning as L
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics.classification import MulticlassConfusionMatrix

from datamodules.features import FeatureBatch
from saev.backbones.base import Backbone
from saev.errors import UserError
from saev.heads.reading import Reading
from saev.heads.scores import shares_of
from saev.heads.trained import TrainedHead, backbone_identity


class GridMember(NamedTuple):
    """One head of the grid, as the selection images judge it."""

    learning_rate: float
    weight_decay: float
    score: float
    """``SCORE`` of the module; nan for a member that diverged."""
    cross_entropy: float
    """Nats per row."""


class HeadTraining(L.LightningModule):
    """Trains learning rates × weight decays at once; ``.export()`` gives the best of them.

    Each member is trained twice on the same batches: without the rows of the selection images,
    to be judged on them, and with them, to be kept if it is the best. All these heads are as
    independent as if each were trained alone: their losses are added, and each has parameters,
    learning rate and decay of its own in AdamW (Loshchilov & Hutter 2019), biases without decay.
    The learning rate follows half a cosine to 0. Rows are standardised per dimension while
    training; the export has that folded into its weights.

    Args:
        n_features: width of a row.
        n_classes: classes of the source, whether or not each has an example.
        features: what the rows are, one of ``FEATURES``.
        learning_rates, weight_decays: the grid.

    Raises:
        ValueError: an empty or negative grid, features that this kind of head does not read.
    """

    kind: str
    READS: tuple[str, ...]
    SCORE: str
    """Which of ``Shares`` is reported of each member beside its cross-entropy."""

    def __init__(
        self,
        n_features: int,
        n_classes: int,
        features: str,
        learning_rates: Sequence[float],
        weight_decays: Sequence[float],
    ) -> None:
        super().__init__()
        if features not in self.READS:
            raise ValueError(f"model.features={features!r} is not one of {', '.join(self.READS)}.")
        if not learning_rates or not all(lr > 0 for lr in learning_rates):
            raise ValueError(
                f"model.learning_rates={list(learning_rates)} must be positive numbers."
            )
        if not weight_decays or not all(decay >= 0 for decay in weight_decays):
            raise ValueError(f"model.weight_decays={list(weight_decays)} must be 0 or more.")
        if n_classes < 2:
            raise ValueError(f"n_classes={n_classes}: a head tells two classes or more apart.")
        self.features = features
        self.grid = [(float(lr), float(wd)) for lr, wd in product(learning_rates, weight_decays)]
        # judged ones, then kept ones; a parameter each, to which AdamW's rate and decay belong
        n_heads = 2 * len(self.grid)
        self.weights = nn.ParameterList(torch.zeros(n_classes, n_features) for _ in range(n_heads))
        self.biases = nn.ParameterList(torch.zeros(n_classes) for _ in range(n_heads))
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("std", torch.ones(n_features))
        self.confusions = nn.ModuleList(MulticlassConfusionMatrix(n_classes) for _ in self.grid)
        self.members: list[GridMember] = []
        self._loss_sum, self._n_rows = torch.zeros(len(self.grid)), 0

    # --- training ----------------------------------------------------------------------------

    @torch.no_grad()
    def set_statistics(self, rows: Float[Tensor, "n e"]) -> None:
        """Mean and standard deviation of the training rows; a constant dimension is only centred."""
        chunks = rows.split(65_536)  # a copy in float64 of everything would not fit
        mean = torch.stack([chunk.double().sum(0) for chunk in chunks]).sum(0) / len(rows)
        squares = torch.stack([(chunk.double() - mean).square().sum(0) for chunk in chunks])
        std = (squares.sum(0) / len(rows)).sqrt()
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 1e-6 * std.max(), std, 1.0))

    def forward(self, rows: Float[Tensor, "b e"]) -> Float[Tensor, "m b c"]:
        """Logits of every head in training, in one batched product."""
        standard_be = (rows - self.mean) / self.std
        weight_mce, bias_mc = torch.stack(list(self.weights)), torch.stack(list(self.biases))
        return torch.einsum("be,mce->mbc", standard_be, weight_mce) + bias_mc[:, None]

    def training_step(self, batch: FeatureBatch, batch_idx: int) -> Tensor:
        loss_mb = _cross_entropy(self(batch.rows), batch.labels)
        judged_gb, kept_gb = loss_mb.chunk(2)
        trains_b = ~batch.selects
        judged_g = (judged_gb * trains_b).sum(1) / trains_b.sum().clamp(min=1)
        kept_g = kept_gb.mean(1)
        self.log("train/cross_entropy", kept_g.detach().min())
        return judged_g.sum() + kept_g.sum()

    def configure_optimizers(self) -> Any:
        groups = []
        for (lr, decay), weight, bias in zip(self.grid * 2, self.weights, self.biases, strict=True):
            groups.append({"params": [weight], "lr": lr, "weight_decay": decay})
            groups.append({"params": [bias], "lr": lr, "weight_decay": 0.0})
        total = self.trainer.estimated_stepping_batches
        optimizer = torch.optim.AdamW(groups, fused=True)
        schedule = LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / total)))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    # --- choosing ----------------------------------------------------------------------------

    @property
    def _judges(self) -> list[MulticlassConfusionMatrix]:
        return cast(list[MulticlassConfusionMatrix], list(self.confusions))

    def on_validation_epoch_start(self) -> None:
        for confusion in self._judges:
            confusion.reset()
        self._loss_sum, self._n_rows = torch.zeros(len(self.grid), device=self.device), 0

    def validation_step(self, batch: FeatureBatch, batch_idx: int) -> None:
        logits_gbc = self(batch.rows)[: len(self.grid)]
        self._loss_sum += _cross_entropy(logits_gbc, batch.labels).sum(1)
        self._n_rows += len(batch.labels)
        for confusion, predicted_b in zip(self._judges, logits_gbc.argmax(-1), strict=True):
            confusion.update(predicted_b, batch.labels)

    def on_validation_epoch_end(self) -> None:
        loss_g = (self._loss_sum / self._n_rows).tolist()
        self.members = [
            GridMember(lr, decay, self._score(confusion.compute().cpu(), loss), loss)
            for (lr, decay), confusion, loss in zip(self.grid, self._judges, loss_g, strict=True)
        ]
        best = self.members[self.best]
        self.log_dict(
            {"selection/score": best.score, "selection/cross_entropy": best.cross_entropy}
        )

    def _score(self, confusion: Int64[Tensor, "c c"], loss: float) -> float:
        return getattr(shares_of(confusion), self.SCORE) if math.isfinite(loss) else math.nan

    @property
    def best(self) -> int:
        """Position of the member with the lowest cross-entropy on the selection images.

        On a few images a proper score tells members apart that accuracy or mean IoU, which jump
        with single examples of rare classes, only reshuffle. UserError when all of them diverged.
        """
        finite = [i for i, m in enumerate(self.members) if math.isfinite(m.cross_entropy)]
        if not finite:
            raise UserError(
                "every head of the grid diverged; lower model.learning_rates "
                f"(now {sorted({lr for lr, _ in self.grid})})"
            )
        return min(finite, key=lambda i: self.members[i].cross_entropy)

    # --- what is kept ------------------------------------------------------------------------

    @torch.no_grad()
    def export(
        self, backbone: Backbone, class_names: list[str], recipe: dict[str, Any]
    ) -> TrainedHead:
        """The best member, trained on all images, for raw features and apart from this module.

        Validation must have run: it judges the members.
        """
        kept = len(self.grid) + self.best
        weight = self.weights[kept] / self.std
        bias = self.biases[kept] - weight @ self.mean
        return TrainedHead(
            self.kind,
            Reading.of(self.features, backbone),
            class_names,
            backbone_identity(backbone),
            weight.cpu(),
            bias.cpu(),
            recipe={**self.members[self.best]._asdict(), **recipe},
        ).eval()


def _cross_entropy(
    logits: Float[Tensor, "m b c"], labels_b: Int64[Tensor, " b"]
) -> Float[Tensor, "m b"]:
    """Nats, of every head and row."""
    labels_mb = labels_b.expand(len(logits), -1)
    return nn.functional.cross_entropy(logits.transpose(1, 2), labels_mb, reduction="none")


class ProbeTraining(HeadTraining):
    """Classes of whole images; the score is micro-averaged accuracy."""

    kind, SCORE = "classification", "accuracy"
    READS = ("class", "pooled", "embedding")


class SegmentationTraining(HeadTraining):
    """Classes of patches; the score is mean IoU over patches.

    The target of a patch is its most frequent class; predictions become pixels by bilinear
    up-sampling of the logits afterwards. Measured on CamVid (ViT-Tiny, test): learning the shares
    of classes in each patch, which is the loss per pixel, gave mean IoU 0.41 over patches and 0.39
    over pixels where the most frequent class gave 0.45 and 0.39.
    """

    kind, SCORE = "segmentation", "mean_iou"
    READS = ("patches",)

    def __init__(
        self,
        n_features: int,
        n_classes: int,
        learning_rates: Sequence[float],
        weight_decays: Sequence[float],
        features: str = "patches",
    ) -> None:
        super().__init__(n_features, n_classes, features, learning_rates, weight_decays)
