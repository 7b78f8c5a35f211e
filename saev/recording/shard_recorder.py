"""Shard recorder: one pass over images that writes the activation tars of several layers.

Shape legend: b batch, t tokens, p tokens that were asked for, d width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.activations.format import ShardInfo
from datamodules.activations.norms import norm_histogram, token_norms
from datamodules.activations.tar import ShardWriter
from datamodules.images.base import ImageItem, ImageSource
from datamodules.images.batches import loaded_batches
from datamodules.images.dataset import ImageBatch
from datamodules.progress import progress_bar
from saev.backbones.base import Backbone
from saev.errors import UserError
from saev.recording.parts import Part, temporary_path
from saev.recording.request import RecordingRequest

TAR_BYTES = 2560
"""An image's share of a tar beside its activations: two headers, what is known of it, padding."""


class PlannedShard(NamedTuple):
    """A shard before it is written."""

    name: str
    split: str
    positions: list[int]
    """Of its images in the source's items, in the order of writing."""
    first: int
    """Number of its first image in the split; keys count on from there."""


def plan(request: RecordingRequest, items: Sequence[ImageItem]) -> list[PlannedShard]:
    """All shards of both splits, the images of each in a seeded random order."""
    shards = []
    for number, split in enumerate(("train", "heldout")):
        members = [i for i, item in enumerate(items) if (item.split == "train") == (number == 0)]
        order = np.random.default_rng([request.seed, number]).permutation(members).tolist()
        for k, first in enumerate(range(0, len(order), request.images_per_shard)):
            positions = order[first : first + request.images_per_shard]
            shards.append(PlannedShard(f"{split}-{k:06d}.tar", split, positions, first))
    return shards


class ShardRecorder:
    """One pass over images, writing the shards of several layers."""

    def __init__(
        self,
        request: RecordingRequest,
        backbone: Backbone,
        source: ImageSource,
        folders: dict[int, Path],
        precision: str,
        device: torch.device,
    ) -> None:
        self.request, self.source, self.folders = request, source, folders
        self.precision, self.device = precision, device
        self.backbone = backbone.to(device)
        self.positions = backbone.token_indices(request.tokens)

    def _missing(self, shard: PlannedShard) -> list[int]:
        """Layers for which it is not on disk yet."""
        return [
            layer
            for layer, folder in self.folders.items()
            if Part.read(folder, shard.name, self.precision) is None
        ]

    def n_bytes_left(self, shards: list[PlannedShard]) -> int:
        """Of the tars that are not on disk yet."""
        n_rows = self.request.n_per_image or len(self.positions)
        n_values = n_rows * self.backbone.width
        per_image = n_values * np.dtype(self.request.dtype).itemsize + TAR_BYTES
        return sum(len(self._missing(one)) * len(one.positions) * per_image for one in shards)

    def run(self, own: list[PlannedShard], batch_size: int, num_workers: int) -> None:
        """Records what is missing of these shards."""
        missing = {shard.name: self._missing(shard) for shard in own}
        todo = [shard for shard in own if missing[shard.name]]
        chunks = [
            shard.positions[i : i + batch_size]
            for shard in todo
            for i in range(0, len(shard.positions), batch_size)
        ]
        batches = loaded_batches(
            self.source,
            self.source.items,
            self.backbone.transform,
            chunks,
            num_workers=num_workers,
            pin_memory=self.device.type == "cuda",
        )
        n_images = sum(len(shard.positions) for shard in own)
        n_done = n_images - sum(len(chunk) for chunk in chunks)
        title = f"recording {self.backbone.name}"
        with progress_bar(title, n_images, done=n_done, stays=True) as advance:
            for shard in todo:
                n_batches = -(-len(shard.positions) // batch_size)
                own_batches = (next(batches) for _ in range(n_batches))
                self._write_shard(shard, missing[shard.name], own_batches, advance)

    def _write_shard(
        self,
        shard: PlannedShard,
        layers: list[int],
        batches: Iterator[ImageBatch],
        advance: Callable[[int], None],
    ) -> None:
        numbers = {position: shard.first + i for i, position in enumerate(shard.positions)}
        histograms: dict[int, Counter[int]] = {layer: Counter() for layer in layers}
        skipped: list[dict[str, str]] = []
        n_images = n_tokens = 0
        with ExitStack() as stack:
            writers: dict[int, ShardWriter] = {}
            for layer in layers:
                folder = self.folders[layer]
                temporary = temporary_path(folder, shard.name)
                writers[layer] = stack.enter_context(ShardWriter(folder / shard.name, temporary))
            for batch in batches:
                skipped += [
                    {"image_id": item.image_id, "reason": error.reason}
                    for item, error in batch.broken
                ]
                chosen = self._choose(batch.items)
                acts = self._acts(batch, layers, chosen)
                for i, item in enumerate(batch.items):
                    meta = {
                        "image_id": item.image_id,
                        "label": item.label,
                        "split": item.split,
                        "path": item.path,
                        "tokens": None if chosen is None else self.positions[chosen[i]].tolist(),
                    }
                    n_images += 1
                    for layer, writer in writers.items():
                        acts_pd = acts[layer][i]
                        writer.write(f"{numbers[batch.positions[i]]:08d}", acts_pd, meta)
                        histograms[layer].update(norm_histogram(token_norms(acts_pd)))
                    n_tokens += len(acts[layers[0]][i])
                advance(len(batch.items) + len(batch.broken))
        for layer, writer in writers.items():
            info = ShardInfo(
                shard.name, shard.split, n_images, n_tokens, writer.n_bytes, writer.sha256
            )
            Part(info, self.precision, skipped, dict(histograms[layer])).write(self.folders[layer])

    def read(self, batch: ImageBatch, layers: list[int]) -> dict[int, np.ndarray]:
        """Per layer the (b, p, d) values that would be written, checked; (0, p, d) without a good image."""
        if batch.items:
            return self._acts(batch, layers, self._choose(batch.items))
        shape = 0, self.request.n_per_image or len(self.positions), self.backbone.width
        return {layer: np.empty(shape, self.request.dtype) for layer in layers}

    def _choose(self, items: list[ImageItem]) -> Tensor | None:
        """Which of the tokens asked for to keep of each image, (b, n_per_image); None for all."""
        n_tokens = len(self.positions)
        chosen = [self.request.choose_tokens(item.image_id, n_tokens) for item in items]
        rows = [row for row in chosen if row is not None]
        return torch.from_numpy(np.stack(rows)) if rows else None

    def _acts(
        self, batch: ImageBatch, layers: list[int], chosen: Tensor | None
    ) -> dict[int, np.ndarray]:
        """Per layer the (b, p, d) values to write, checked."""
        if not batch.items:
            return {}
        kind = self.device.type
        autocast = torch.autocast(kind, torch.bfloat16, enabled=self.precision == "bf16")
        with torch.inference_mode(), autocast:
            tapped = self.backbone.tap(batch.images.to(self.device, non_blocking=True), layers)
            kept: dict[int, np.ndarray] = {}
            for layer in layers:
                acts_bpd = tapped[layer].index_select(1, self.positions.to(self.device))
                if chosen is not None:
                    index = chosen.to(self.device)[:, :, None].expand(-1, -1, acts_bpd.shape[2])
                    acts_bpd = acts_bpd.gather(1, index)
                self._check(acts_bpd, layer, batch.items)
                kept[layer] = acts_bpd.to(getattr(torch, self.request.dtype)).cpu().numpy()
        return kept

    def _check(self, acts_bpd: Float[Tensor, "b p d"], layer: int, items: list[ImageItem]) -> None:
        """Raises UserError naming the first image with a value that cannot be written."""
        dtype = self.request.dtype
        limit = torch.finfo(getattr(torch, dtype)).max
        peaks = acts_bpd.abs().amax(dim=(1, 2)).float().tolist()  # NaN stays NaN
        for item, peak in zip(items, peaks, strict=True):
            if not np.isfinite(peak):
                raise UserError(
                    f"The image {item.image_id} gives a value that is not finite after layer "
                    f"{layer} of {self.backbone.name}, which no dtype holds; leave the image out, "
                    f"check the weights, or use record.precision=32 (now {self.precision})."
                )
            if peak > limit:
                raise UserError(
                    f"The image {item.image_id} reaches {peak:.0f} after layer {layer} of "
                    f"{self.backbone.name}, which {dtype} (up to {limit:.0f}) does not hold; "
                    "record with record.dtype=float32."
                )
