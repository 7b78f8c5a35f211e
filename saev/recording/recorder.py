"""Recorder: images → backbone → activation tars, in a way that can be stopped at any moment.

The work is cut into shards before it begins. A shard is written under another name and appears by
rename, followed by a small file that describes it (``.parts/<shard>.json``); what has both is
never done again. No batch crosses the border of a shard, so a shard's bytes do not depend on what
was recorded before it, by which rank, or how often the recording was interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from datamodules.activations.format import Manifest, require_space
from datamodules.activations.norms import check_multiple, measure, median_of
from datamodules.images.base import ImageSource
from datamodules.progress import progress_bar, progress_bars
from saev.backbones.base import Backbone
from saev.errors import UserError
from saev.recording.parts import (
    Part,
    is_complete,
    locked,
    make_folder,
    skipped_images,
    training_histogram,
)
from saev.recording.request import RecordingRequest
from saev.recording.shard_recorder import PlannedShard, ShardRecorder, plan

PRECISIONS = ("auto", "32", "bf16")


@runtime_checkable
class Ranks(Protocol):
    """What is used of Lightning's ``Fabric``."""

    @property
    def global_rank(self) -> int: ...
    @property
    def world_size(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    def barrier(self) -> None: ...


class OneRank:
    """A recording without Fabric: this process, on the device the backbone is on."""

    global_rank, world_size = 0, 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def barrier(self) -> None:
        """Nobody to wait for."""


def record(
    request: RecordingRequest,
    backbone: Backbone,
    source: ImageSource,
    out_root: str | Path,
    *,
    batch_size: int = 32,
    num_workers: int = 2,
    precision: str = "auto",
    max_norm: float | None = 3.0,
    fabric: Ranks | None = None,
    progress: bool = True,
) -> dict[int, Path]:
    """Writes one folder of tars per layer of the request and returns where they are.

    Goes on where a stopped recording of the same request left off; a finished one is returned at
    once. ``batch_size`` is in images. ``precision`` is "32", "bf16" (autocast) or "auto", which is
    bf16 on CUDA and 32 elsewhere. Both must stay the same over a resume for the bytes to.
    ``max_norm`` is the multiple of the median norm up to which a token counts as normal. With
    ``fabric`` its ranks share the shards, and ``out_root`` must be a file system they share.

    Raises UserError for a broken image (unless the source skips those), for values that the dtype
    cannot hold, for a disk that is full or too small for what is left to record, and for a finished
    recording in another precision than the one asked for; shards that are finished stay valid.
    """
    check_multiple(max_norm)
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r} is not one of {', '.join(PRECISIONS)}.")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1 image.")
    ranks = fabric or OneRank(next((p.device for p in backbone.parameters()), torch.device("cpu")))
    folders = {layer: Path(out_root) / request.id(layer) for layer in request.layers}
    is_first = ranks.global_rank == 0
    for folder in folders.values() if is_first else ():
        make_folder(folder)
    lock = locked(list(folders.values())) if is_first else nullcontext()
    with progress_bars(progress and is_first), lock:
        ranks.barrier()
        unfinished = {k: path for k, path in folders.items() if not is_complete(path, precision)}
        if unfinished:
            if precision == "auto":
                precision = "bf16" if ranks.device.type == "cuda" else "32"
            shards = plan(request, source.items)
            recorder = ShardRecorder(request, backbone, source, unfinished, precision, ranks.device)
            if is_first:
                require_space(Path(out_root), recorder.n_bytes_left(shards), "the recording")
            own = shards[ranks.global_rank :: ranks.world_size]
            recorder.run(own, batch_size, num_workers)
            ranks.barrier()
            if is_first:
                for layer in unfinished:
                    _finish(recorder, layer, shards, max_norm)
        ranks.barrier()
    return folders


def _finish(
    recorder: ShardRecorder,
    layer: int,
    shards: Sequence[PlannedShard],
    max_norm: float | None,
) -> None:
    """Adds the parts of all ranks up to the manifest, which makes the recording complete."""
    folder, precision = recorder.folders[layer], recorder.precision
    backbone, source, request = recorder.backbone, recorder.source, recorder.request
    parts = [Part.read(folder, shard.name, precision) for shard in shards]
    done = [part for part in parts if part is not None]
    if len(done) < len(shards):
        raise UserError(f"{folder} lost shards while it was recorded; run the command again.")
    median_norm = median_of(training_histogram(folder, done))
    training = [part.shard for part in done if part.shard.split == "train"]
    n_images = sum(shard.n_images for shard in training)
    with progress_bar(f"statistics of layer {layer}", n_images, stays=True) as advance:
        statistics = measure(folder, training, median_norm, max_norm, advance)
    Manifest(
        id=request.id(layer),
        backbone=request.backbone,
        layer=layer,
        width=backbone.width,
        grid=list(backbone.grid),
        token_names=list(backbone.token_names),
        tokens={
            "which": request.tokens,
            "n_per_image": request.n_per_image,
            "positions": recorder.positions.tolist(),
        },
        dtype=request.dtype,
        images={"name": source.name, **request.images},
        transform=request.transform,
        class_names=source.class_names,
        skipped=skipped_images(done, source.n_skipped),
        recording={
            "seed": request.seed,
            "images_per_shard": request.images_per_shard,
            "precision": precision,
        },
        shards=[part.shard for part in done],
        statistics=statistics,
    ).write(folder)
