"""SAE folder or hub id → the dictionary, the backbone and the images it belongs to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from datamodules.images import ImageSource, source_from_spec
from saev.backbones import Backbone, as_backbone, load_backbone
from saev.backbones.family import PREPROCESSING
from saev.backbones.from_spec import backbone_from_spec, checked_spec
from saev.errors import UserError
from saev.heads import TrainedHead
from saev.interop import open_sae
from saev.sae import SparseAutoencoder


def open_dictionary(
    sae: str | Path | SparseAutoencoder,
    weights: str | None = None,
    backbone: str | Backbone | nn.Module | None = None,
) -> tuple[SparseAutoencoder, Backbone]:
    """The SAE and the backbone it was trained on.

    Args:
        sae: a folder, an id of the hub, or a dictionary as it is.
        weights: of the backbone, where they have moved.
        backbone: the model itself, where no name rebuilds it.

    Raises:
        UserError: no such dictionary, it does not say what it belongs to, or the weights are others.
    """
    name = "the dictionary" if isinstance(sae, SparseAutoencoder) else str(sae)
    sae = open_sae(sae)
    found = backbone_of(sae, name, weights=weights, backbone=backbone)
    check_belongs(sae, found)
    return sae, found


def backbone_of(
    sae: SparseAutoencoder,
    name: str,
    *,
    weights: str | None = None,
    backbone: str | Backbone | nn.Module | None = None,
    head: TrainedHead | None = None,
) -> Backbone:
    """The backbone a dictionary was trained on, tapped at its layer.

    ``weights`` says where its weights are now. With a ``head`` it prepares pictures as the head's
    did: one for segmentation has seen them whole, whatever the dictionary was trained on.

    Raises:
        UserError: the dictionary does not say what it belongs to, the head belongs to another model,
            or the model was an object and is not given.
    """
    trained = sae.cfg.backbone
    if trained is None or sae.cfg.layer is None or sae.cfg.tokens is None:
        raise UserError(f"{name} does not say which backbone, layer and tokens it belongs to")
    if head is not None and _sha256(head.backbone) != _sha256(trained):
        raise UserError(
            f"the head was trained on {head.backbone.get('name')} and {name} on "
            f"{trained.get('name')}, or on other weights of it; give a head of the same model"
        )
    where, identity = (name, trained) if head is None else ("the head", head.backbone)
    if not identity.get("spec"):
        raise UserError(f"{where} does not say how the backbone it belongs to is built")
    if backbone is not None:
        return rebuild_backbone({**identity["spec"], "layer": sae.cfg.layer}, backbone)
    changes = {"layer": sae.cfg.layer} | ({} if weights is None else {"weights": weights})
    return backbone_from_spec(identity["spec"], where, **changes)


def _sha256(identity: Mapping[str, Any]) -> str | None:
    return (identity.get("weights") or {}).get("sha256")


def rebuild_backbone(
    spec: Mapping[str, Any] | None, backbone: str | Backbone | nn.Module
) -> Backbone:
    """A backbone that is given by name or as an object; a model object takes its name, layer and
    preprocessing from ``spec``, where there is one."""
    if spec is None or isinstance(backbone, str | Backbone):
        return as_backbone(backbone)
    spec = checked_spec(spec, "the dictionary")
    kept = {key: spec[key] for key in ("transform", *PREPROCESSING) if key in spec}
    return load_backbone(backbone, spec["name"], layer=spec["layer"], **kept)


def images_for(
    sae: SparseAutoencoder, name: str, images: ImageSource | None, head: TrainedHead | None = None
) -> ImageSource:
    """The images given, or else those that the head, or the SAE, was trained on.

    Raises:
        UserError: none are given and neither says any, or what they say is refused.
    """
    if images is not None:
        return images
    if head is not None and head.recipe.get("images") is not None:
        return source_from_spec(head.recipe["images"], "the head")
    if sae.cfg.images is None:
        raise UserError(f"{name} does not say which images it was trained on; set images=…")
    return source_from_spec(sae.cfg.images, name)


def sources_for(
    sae: SparseAutoencoder,
    name: str,
    images: ImageSource | None,
    more: Mapping[str, ImageSource],
) -> dict[str, ImageSource]:
    """The images of :func:`images_for` first, by their own name, then those of ``more`` by theirs.

    Raises:
        UserError: two of one name.
    """
    first = images_for(sae, name, images)
    sources = {first.name: first}
    for key, source in more.items():
        if key in sources:
            raise UserError(f"more_images.{key} has the name of another source; choose another")
        sources[key] = source
    return sources


def check_belongs(sae: SparseAutoencoder, backbone: Backbone) -> None:
    """Raises UserError unless the SAE was trained on this backbone's activations."""
    trained = sae.cfg.backbone or {}
    if sae.cfg.d_model != backbone.width:
        raise UserError(
            f"the SAE reads {sae.cfg.d_model} dimensions and {backbone.name} has {backbone.width}"
            + (f"; it was trained on {trained['name']}" if "name" in trained else "")
        )
    check_same_weights("the SAE was trained on", trained, backbone)


def check_same_weights(what: str, trained: Mapping[str, Any], backbone: Backbone) -> None:
    """Raises UserError unless a backbone has the weights of the one that ``what`` says, in words, of
    something (the SAE was trained on …)."""
    expected, found = _sha256(trained), backbone.weights["sha256"]
    if expected is None or expected == found:
        return
    remedy = "set backbone.weights to the file it was trained on"
    if trained["weights"].get("kind") == "object":
        remedy = "give the model object as it was then"
    raise UserError(
        f"{what} {trained.get('name')} with weights {expected[:12]}…, these are "
        f"{found[:12]}…; {remedy}"
    )
