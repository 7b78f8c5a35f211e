"""SAE folder or hub id → the dictionary, the backbone and the images it belongs to."""

from collections.abc import Mapping
from typing import Any

from hydra.utils import instantiate

from datamodules.images import ImageSource
from saev.backbones import Backbone, load_backbone
from saev.errors import UserError
from saev.sae import SparseAutoencoder


def open_dictionary(name: str, weights: str | None = None) -> tuple[SparseAutoencoder, Backbone]:
    """The SAE and the backbone it was trained on, from ``weights`` where they have moved.

    Raises:
        UserError: no such dictionary, it does not say what it belongs to, or the weights are others.
    """
    sae = SparseAutoencoder.from_pretrained(name)
    if sae.cfg.backbone is None or sae.cfg.layer is None or sae.cfg.tokens is None:
        raise UserError(f"{name} does not say which backbone, layer and tokens it belongs to")
    spec = dict(sae.cfg.backbone["spec"])
    if weights is not None:
        spec["weights"] = weights
    backbone = load_backbone(**spec)
    check_belongs(sae, backbone)
    return sae, backbone


def images_for(sae: SparseAutoencoder, name: str, images: Any) -> ImageSource:
    """The images of a config node, or those that the SAE was trained on where it is null."""
    if images is None and sae.cfg.images is None:
        raise UserError(f"{name} does not say which images it was trained on; set images=…")
    return instantiate(images if images is not None else sae.cfg.images)


def sources_for(
    sae: SparseAutoencoder, name: str, images: Any, more: Mapping[str, Any] | None
) -> dict[str, ImageSource]:
    """The images of :func:`images_for` first, by their own name, then those of ``more`` by theirs.

    Raises:
        UserError: two of one name.
    """
    first = images_for(sae, name, images)
    sources = {first.name: first}
    for key, node in (more or {}).items():
        if key in sources:
            raise UserError(f"more_images.{key} has the name of another source; choose another")
        sources[key] = instantiate(node)
    return sources


def check_belongs(sae: SparseAutoencoder, backbone: Backbone) -> None:
    """Raises UserError unless the SAE was trained on this backbone's activations."""
    trained = sae.cfg.backbone or {}
    if sae.cfg.d_model != backbone.width:
        raise UserError(
            f"the SAE reads {sae.cfg.d_model} dimensions and {backbone.name} has {backbone.width}; "
            f"it was trained on {trained.get('name')}"
        )
    expected, found = trained.get("weights", {}).get("sha256"), backbone.weights["sha256"]
    if expected is not None and expected != found:
        raise UserError(
            f"the SAE was trained on {trained.get('name')} with weights {expected[:12]}…, these are "
            f"{found[:12]}…; set backbone.weights to the file it was trained on"
        )
