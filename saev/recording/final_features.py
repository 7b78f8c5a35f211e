"""Final features of a backbone as one more layer, so that the activation recorder writes them.

Shape legend: b batch, r rows read of each image, e width of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from datamodules.images.base import ImageSource
from saev.backbones.base import Backbone
from saev.heads.reading import Reading
from saev.recording.recorder import Ranks, record
from saev.recording.request import RecordingRequest


class FinalFeatures(Backbone):
    """A view of a backbone whose only layer, ``n_blocks``, is what a ``Reading`` takes of its output.

    The token axis of that layer are the rows that are read: one, or one per patch; the name of the
    features stands for all of them. Shares the model's weights.
    """

    def __init__(self, backbone: Backbone, features: str) -> None:
        super().__init__(
            backbone.trunk,
            family=backbone.family,
            name=backbone.name,
            layer=-1,
            transform=backbone.transform,
            weights=backbone.weights,
            spec=backbone.spec,
        )
        self.reading = Reading.of(features, backbone)
        self.layer = self.n_blocks
        n_rows = len(self.token_indices("patch")) if features == "patches" else 1
        self.token_names = [features] * n_rows
        if features == "embedding":
            device = next(self.trunk.parameters()).device
            with torch.inference_mode():
                one = self.forward(torch.zeros(1, 3, *self.image_size, device=device))
            self.width = one.pooled.shape[-1]

    def resolve_layer(self, layer: int) -> int:
        """The one layer there is, or, while the view is being built, a block."""
        return layer if layer == self.n_blocks else super().resolve_layer(layer)

    def token_indices(self, which: str) -> Int64[Tensor, " n"]:
        """All rows, by the name of the features; otherwise positions among the model's tokens."""
        if which == self.reading.features:
            return torch.arange(self.n_tokens)
        return super().token_indices(which)

    def tap(
        self, images: Float[Tensor, "b 3 h w"], layers: Sequence[int] | None = None
    ) -> dict[int, Float[Tensor, "b r e"]]:
        """The features, after the whole model has run."""
        return {self.n_blocks: self.reading(self.forward(images))}


def record_features(
    backbone: Backbone,
    source: ImageSource,
    features: str,
    out_root: str | Path,
    *,
    dtype: str = "float16",
    images_per_shard: int = 256,
    seed: int = 0,
    batch_size: int = 32,
    num_workers: int = 2,
    precision: str = "auto",
    fabric: Ranks | None = None,
    progress: bool = True,
) -> Path:
    """The folder of tars with these final features of every image, written if it is not there.

    The format is that of activation tars (docs/formats.md) with ``layer`` = the number of blocks and
    ``tokens`` = the features; another backbone, transform, image set or choice of features makes
    another folder. Raises what ``saev.recording.recorder.record`` raises.
    """
    view = FinalFeatures(backbone, features)
    request = RecordingRequest.of(
        view,
        source,
        [view.layer],
        tokens=features,
        dtype=dtype,
        images_per_shard=images_per_shard,
        seed=seed,
    )
    options: dict[str, Any] = {"fabric": fabric, "progress": progress, "precision": precision}
    folders = record(
        request,
        view,
        source,
        out_root,
        batch_size=batch_size,
        num_workers=num_workers,
        max_norm=None,  # a head sees every token; those of large norm are no exception after the norm
        **options,
    )
    return folders[view.layer]
