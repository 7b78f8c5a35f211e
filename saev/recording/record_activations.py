"""Recorded activations for a command: a folder of tars, recorded now or found on disk."""

import logging
from pathlib import Path
from typing import Any

import lightning as L
from omegaconf import DictConfig

from datamodules.activations.format import MANIFEST_NAME
from datamodules.images import ImageSource
from saev.backbones import Backbone
from saev.recording.request import RecordingRequest

log = logging.getLogger(__name__)


def activations_for(cfg: DictConfig, backbone: Backbone, source: ImageSource) -> Path:
    """The folder of activations at ``backbone.layer``, recorded on one device if it is not there."""
    request = request_of(cfg, backbone, source)
    folder = Path(cfg.record.root) / request.id(backbone.layer)
    if (folder / MANIFEST_NAME).is_file():
        return folder  # damage to it is for the data module to report, not to be mended in passing
    layers = ", ".join(str(layer) for layer in request.layers)
    log.info(
        "No activations of %s, block %s, on these %s images yet: recording them to %s",
        backbone.name, layers, f"{len(source.items):,}", folder,
    )  # fmt: skip
    fabric = L.Fabric(accelerator=cfg.trainer.accelerator, devices=1)
    return record_all(cfg, backbone, source, fabric)[backbone.layer]


def record_all(
    cfg: DictConfig, backbone: Backbone, source: ImageSource, fabric: L.Fabric
) -> dict[int, Path]:
    """Records every layer of the request that is not on disk yet; layer → folder."""
    from saev.recording.recorder import record

    settings = cfg.record
    return record(
        request_of(cfg, backbone, source),
        backbone.to(fabric.device),
        source,
        settings.root,
        batch_size=settings.batch_size,
        num_workers=settings.num_workers,
        precision=str(settings.precision),
        max_norm=cfg.tokens.max_norm,
        fabric=fabric,
    )


def request_of(cfg: DictConfig, backbone: Backbone, source: ImageSource) -> RecordingRequest:
    """What ``tokens`` and ``record`` ask for. ``backbone.layer`` is always among the layers."""
    layers = [backbone.layer, *(cfg.record.layers or [])]
    return RecordingRequest.of(
        backbone,
        source,
        layers,
        tokens=cfg.tokens.which,
        n_per_image=cfg.tokens.n_per_image,
        dtype=cfg.record.dtype,
        images_per_shard=cfg.record.images_per_shard,
        seed=cfg.record.seed,
    )


def identity(backbone: Backbone) -> dict[str, Any]:
    """What tells backbones apart in a manifest."""
    return {"family": backbone.family, "name": backbone.name, "weights": backbone.weights}
