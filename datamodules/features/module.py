"""LightningDataModule of recorded features with their labels, for training heads.

Shape legend: n rows of all images, b rows of a batch, e width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import lightning as L
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.activations.format import Manifest, ShardInfo
from datamodules.activations.tar import Sample, iter_samples
from datamodules.activations.verify import require_intact
from datamodules.images.base import ImageItem
from datamodules.images.selection import draw
from saev.errors import UserError

log = logging.getLogger(__name__)

Labels = Callable[[ImageItem], Int64[Tensor, " r"]]
"""One class per row of an image, NO_LABEL where there is none."""

NO_LABEL = -1
"""Of a row without a class; masks hold IGNORE instead, but images may have more than 255 classes."""


class FeatureBatch(NamedTuple):
    """Rows from many images; every row has a label."""

    rows: Float32[Tensor, "b e"]
    labels: Int64[Tensor, " b"]
    selects: Bool[Tensor, " b"]
    """Whether the row is of an image that chooses among the members of a grid."""


class LabelledRows(Dataset[FeatureBatch]):
    """All rows in memory, in the precision of the tars; indexed by lists of positions."""

    def __init__(
        self, rows: Float[Tensor, "n e"], labels: Int64[Tensor, " n"], selects: Bool[Tensor, " n"]
    ) -> None:
        self.rows, self.labels, self.selects = rows, labels, selects

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, positions: list[int]) -> FeatureBatch:
        return FeatureBatch(
            self.rows[positions].float(), self.labels[positions], self.selects[positions]
        )


class FeatureDataModule(L.LightningDataModule):
    """Batches of labelled rows from a recording of final features.

    Of the images of the training split a share ``selection_fraction``, drawn by ``seed`` and image
    id, is there to choose among the members of a grid: its rows are marked in the training batches
    and are all there is to validation. Rows without a label (void patches, unlabelled images) are
    left out. Everything is held in memory:
    2 bytes × width per row, so 20,000 images of 196 patches at width 768 take 6 GB.

    Args:
        dir: folder that ``record_features`` wrote.
        labels: a class per row of an image.
        n_classes: how many there are; a class without a training row is reported once.
        batch_size: rows; patches of an image need not stay together.
        selection_fraction: share of the training images that choose, at least one image.
        seed: of the division and of the order of batches.
        verify_checksums: read every tar whole before training.

    Raises:
        ValueError: an argument outside what is allowed.
        UserError: fewer than two labelled training images; damaged tars.
    """

    def __init__(
        self,
        dir: str | Path,
        labels: Labels,
        n_classes: int,
        batch_size: int,
        selection_fraction: float,
        seed: int,
        verify_checksums: bool,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"features.batch_size={batch_size} must be at least 1 row.")
        if not 0 < selection_fraction < 1:
            raise ValueError(
                f"features.selection_fraction={selection_fraction} must lie between 0 and 1."
            )
        self.dir, self.labels, self.n_classes = dir, labels, n_classes
        self.batch_size, self.selection_fraction = batch_size, selection_fraction
        self.seed, self.verify_checksums = seed, verify_checksums
        self.manifest = Manifest.read(dir)
        self.n_images: dict[str, int] = {}
        self.training: LabelledRows | None = None

    @property
    def width(self) -> int:
        """Of a row."""
        return self.manifest.width

    def prepare_data(self) -> None:
        """Compares the tars with their checksums."""
        if self.training is None:
            require_intact(self.dir, checksums=self.verify_checksums, progress=False)

    def setup(self, stage: str) -> None:
        """Reads the training tars into memory, once."""
        if self.training is not None:
            return
        images = [_Image(*found) for found in self._labelled(self.manifest.of_split("train"))]
        if len(images) < 2:
            raise UserError(
                f"{self.dir} has {len(images)} training images with a label, and a head needs two "
                "or more: some to train on and some to choose with"
            )
        chosen = self._chosen([image.item.image_id for image in images])
        self.n_images = {"n_images": len(images), "n_selection_images": len(chosen)}
        lengths = torch.tensor([len(image.labels) for image in images])
        flags = torch.tensor([image.item.image_id in chosen for image in images])
        self.training = LabelledRows(
            torch.cat([image.rows for image in images]),
            torch.cat([image.labels for image in images]),
            flags.repeat_interleave(lengths),
        )
        present = self.training.labels.unique().tolist()
        if absent := sorted(set(range(self.n_classes)) - set(present)):
            log.warning(
                "%d of %d classes have no training example and will not be predicted: %s",
                len(absent), self.n_classes, ", ".join(str(k) for k in absent[:10]),
            )  # fmt: skip

    def train_dataloader(self) -> DataLoader[FeatureBatch]:
        """Endless; each row once per round, in an order drawn by ``seed``."""
        assert self.training is not None
        return _loader(self.training, _Rounds(len(self.training), self.batch_size, self.seed))

    def val_dataloader(self) -> DataLoader[FeatureBatch]:
        """The rows of the images that choose, in order, once."""
        assert self.training is not None
        positions = self.training.selects.nonzero()[:, 0].split(self.batch_size)
        return _loader(self.training, [batch.tolist() for batch in positions])

    def _labelled(self, shards: list[ShardInfo]) -> Iterator[tuple[ImageItem, Tensor, Tensor]]:
        for shard in shards:
            for sample in iter_samples(self.dir, shard, self.manifest.rows):
                item = item_of(sample)
                labels_r = self.labels(item)
                keep = labels_r != NO_LABEL
                if keep.any():
                    yield item, torch.from_numpy(sample.acts)[keep], labels_r[keep]

    def _chosen(self, image_ids: list[str]) -> set[str]:
        n = min(len(image_ids) - 1, max(1, round(self.selection_fraction * len(image_ids))))
        return set(sorted(image_ids, key=lambda name: draw(self.seed, "selection", name))[:n])


class _Rounds(Sampler[list[int]]):
    """Batches of positions without end; the last one of a round may be smaller."""

    def __init__(self, n: int, batch_size: int, seed: int) -> None:
        self.n, self.batch_size, self.seed = n, batch_size, seed

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            order = torch.randperm(self.n, generator=generator)
            yield from (positions.tolist() for positions in order.split(self.batch_size))


def _loader(
    data: LabelledRows, batches: Sampler[list[int]] | list[list[int]]
) -> DataLoader[FeatureBatch]:
    # rows are in memory: worker processes would only copy them
    return DataLoader(data, sampler=batches, batch_size=None, num_workers=0)


class _Image(NamedTuple):
    item: ImageItem
    rows: Tensor
    labels: Tensor


def item_of(sample: Sample) -> ImageItem:
    """The image a sample was recorded from."""
    meta = sample.meta
    return ImageItem(meta["image_id"], meta["split"], meta["label"], meta["path"])
