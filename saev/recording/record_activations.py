"""Recorded activations of a backbone on images: recorded now, or found on disk."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from datamodules.activations.format import MANIFEST_NAME, Manifest
from datamodules.images import ImageSource
from saev.backbones import Backbone, as_backbone
from saev.defaults import defaults
from saev.recording.request import RecordingRequest

if TYPE_CHECKING:
    from saev.recording.recorder import Ranks
    from saev.sources import Images

log = logging.getLogger(__name__)

RECORD, TOKENS = defaults("train", "record"), defaults("train", "tokens")


@dataclass(frozen=True)
class Recording:
    """A folder of activation tars, with the model and the images they come from."""

    path: Path
    backbone: Backbone = field(repr=False)
    images: ImageSource = field(repr=False)

    @cached_property
    def manifest(self) -> Manifest:
        """What the folder says of itself."""
        return Manifest.read(self.path)

    def __repr__(self) -> str:
        manifest = self.manifest
        n_tokens = sum(shard.n_tokens for shard in manifest.shards)
        return (
            f"Recording({str(self.path)!r}: {n_tokens:,} {manifest.tokens['which']} tokens of width "
            f"{manifest.width}, {self.backbone.name} block {manifest.layer}, {self.images.name})"
        )


def record_activations(
    backbone: Backbone | torch.nn.Module | str,
    images: "Images",
    *,
    layer: int | None = None,
    tokens: str = TOKENS["which"],
    n_per_image: int | None = TOKENS["n_per_image"],
    max_norm: float | None = TOKENS["max_norm"],
    root: str | Path = RECORD["root"],
    dtype: str = RECORD["dtype"],
    precision: str = RECORD["precision"],
    batch_size: int = RECORD["batch_size"],
    images_per_shard: int = RECORD["images_per_shard"],
    num_workers: int = RECORD["num_workers"],
    seed: int = RECORD["seed"],
    also_layers: Sequence[int] = (),
    fabric: "Ranks | None" = None,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> Recording:
    """The activations of a backbone on images, as ``python -m saev.record`` leaves them.

    A recording that is there is used as it is; one that was interrupted goes on.

    Args:
        backbone: a backbone, its name in ``conf/backbone``, or a model object of timm or open_clip.
        images: a source, its name in ``conf/images``, or a folder.
        layer: block after which to record, from 0, negative from the end; None: ``backbone.layer``.
        tokens: "patch", "class", "registers" or "all".
        n_per_image: keep so many random tokens of each image; None keeps all.
        max_norm: tokens above this multiple of the median norm neither train nor score.
        root: the folder that holds recordings, one folder each.
        dtype: "float16" or "float32".
        precision: "32", "bf16", or "auto": bf16 autocast on CUDA, 32 elsewhere.
        batch_size: images per forward pass.
        images_per_shard: images per tar.
        num_workers: processes that read images.
        seed: of the order of images.
        also_layers: further blocks to record in the same pass, found again by another call.
        fabric: ranks that share the work.
        device: where the backbone runs; None: a GPU where there is one.
        progress: whether a progress bar is shown.

    Raises:
        UserError: a broken image, values that the dtype cannot hold, a full disk, an unknown block.
    """
    backbone, source = as_backbone(backbone), _opened(images)
    block = backbone.resolve_layer(backbone.layer if layer is None else layer)
    request = RecordingRequest.of(
        backbone, source, [block, *also_layers], tokens=tokens, n_per_image=n_per_image,
        dtype=dtype, images_per_shard=images_per_shard, seed=seed,
    )  # fmt: skip
    folder = Path(root) / request.id(block)
    if not (folder / MANIFEST_NAME).is_file():  # damage is for the data module to report
        from saev.cli.results import chosen_device
        from saev.recording.recorder import record

        log.info(
            "No activations of %s, block %s, on these %s images yet: recording them to %s",
            backbone.name, ", ".join(map(str, request.layers)), f"{len(source.items):,}", folder,
        )  # fmt: skip
        record(
            request, backbone.to(fabric.device if fabric else chosen_device(device)), source, root,
            batch_size=batch_size, num_workers=num_workers, precision=precision, max_norm=max_norm,
            fabric=fabric, progress=progress,
        )  # fmt: skip
    return Recording(folder, backbone, source)


def _opened(images: "Images") -> ImageSource:
    if isinstance(images, ImageSource):
        return images
    from saev.sources import open_images

    return open_images(images)


def identity(backbone: Backbone) -> dict[str, Any]:
    """What tells backbones apart in a manifest."""
    return {"family": backbone.family, "name": backbone.name, "weights": backbone.weights}


def settings_of(cfg: Any) -> dict[str, Any]:
    """What ``tokens`` and ``record`` of a composed config ask for, as keyword arguments."""
    record = {key: value for key, value in cfg.record.items() if key != "layers"}
    return {
        "tokens": cfg.tokens.which,
        "n_per_image": cfg.tokens.n_per_image,
        "max_norm": cfg.tokens.max_norm,
        **record,
        "precision": str(cfg.record.precision),
        "also_layers": list(cfg.record.layers or []),
    }
