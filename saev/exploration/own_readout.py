"""Readouts of the explorer: any head, with labels where the images have them and without where not."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.images import ImageItem, ImageSource, ScenesImages
from saev.backbones import Backbone
from saev.errors import UserError
from saev.heads import TrainedHead
from saev.heads.own import ClassifierHead, ZeroShotHead
from saev.intervention.judge.tally import Groups
from saev.intervention.readout import Readout, UnitLabels, make_readout

NO_HEAD = (
    "there is no head to predict with: start the explorer with head=DIR, or type class names where the "
    "model has a text tower"
)


def readout_for(
    head: str | None, trained: TrainedHead | None, backbone: Backbone, source: ImageSource
) -> Readout | None:
    """The readout that ``head`` names, or the first that the model comes with; None where it has none.

    Raises:
        UserError: a head that is named and does not fit.
    """
    if trained is not None:
        trained.check_backbone(backbone)
        return _with_labels(str(head), backbone, source) or _without_labels(
            trained.name, trained.class_names, backbone, trained
        )
    if head is not None and head != "classifier":
        return make_readout(head, backbone, source)
    if head is None and backbone.name == "micro" and isinstance(source, ScenesImages):
        return make_readout("attributes", backbone, source)
    if backbone.has_classifier:
        names = backbone.class_names
        own = ClassifierHead(None)
        return _with_labels("classifier", backbone, source) or _without_labels(
            "classifier", names or _numbered(backbone, own), backbone, own
        )
    if head is not None:
        return make_readout(head, backbone, source)  # says what is missing
    return _with_labels("zero_shot", backbone, source) if backbone.has_text else None


def _with_labels(head: str, backbone: Backbone, source: ImageSource) -> Readout | None:
    """None where the images have no labels that the head knows."""
    try:
        return make_readout(head, backbone, source)
    except UserError:
        return None


def _without_labels(name: str, classes: list[str], backbone: Backbone, head: Any) -> Readout:
    backgrounds = frozenset(i for i, one in enumerate(classes) if one == "background")
    groups = Groups(((0, len(classes)),), backgrounds)
    if isinstance(head, TrainedHead) and head.kind == "segmentation":
        n_units = backbone.grid[0] * backbone.grid[1]
        return Readout(
            name, "patch", tuple(classes), groups,
            lambda output: head(output).flatten(2).transpose(1, 2), _unlabelled(n_units), head,
        )  # fmt: skip
    return Readout(
        name, "image", tuple(classes), groups, lambda output: head(output)[:, None],
        _unlabelled(1), head,
    )  # fmt: skip


def _unlabelled(n_units: int) -> Any:
    def labels(item: ImageItem) -> UnitLabels:
        return UnitLabels(torch.full((n_units, 1), -1), torch.ones(n_units, 1))

    return labels


@torch.no_grad()
def _numbered(backbone: Backbone, head: ClassifierHead) -> list[str]:
    """Names of a classifier that has none."""
    pixels = torch.zeros(1, 3, *backbone.image_size, device=next(backbone.parameters()).device)
    logits: Tensor = head(backbone(pixels))
    return [f"class {number}" for number in range(logits.shape[1])]


def typed_readout(text_tower: Any, names: tuple[str, ...]) -> Readout:
    """A zero-shot head for names that somebody typed."""
    from open_clip import SIMPLE_IMAGENET_TEMPLATES

    if len(names) < 2 or len(set(names)) < len(names):
        raise UserError("give two or more class names, each once: probabilities are shares of them")
    if not all(name.strip() for name in names):
        raise UserError("a class name is empty; leave it out")
    head = ZeroShotHead(text_tower, names, SIMPLE_IMAGENET_TEMPLATES)
    return Readout(
        "zero_shot", "image", names, Groups(((0, len(names)),)),
        lambda output: head(output)[:, None], _unlabelled(1), head,
    )  # fmt: skip


def trained_head_of(head: str | Path | None) -> TrainedHead | None:
    """The head of a folder; None where a name of the model's own heads is given, or nothing."""
    from saev.heads import load_head
    from saev.intervention.readout import OWN_HEADS

    if head is None or str(head) in OWN_HEADS:
        return None
    if not Path(head).is_dir():
        raise UserError(
            f"head={head} is no folder: give the head/ folder of a run of saev.train, or one of "
            f"{', '.join(OWN_HEADS)}"
        )
    return load_head(head)


def no_readout() -> Readout:
    """In the place of a head where there is none: images have no labels, and nothing is predicted."""

    def nothing(output: Any) -> Tensor:
        raise UserError(NO_HEAD)

    return Readout("none", "image", ("none",), Groups(((0, 1),)), nothing, _unlabelled(1))
