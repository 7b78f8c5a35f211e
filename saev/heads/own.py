"""Heads that a model comes with: its own classifier, zero-shot, prototypes, retrieval.

Shape legend: b batch, n fitted images, e pooled embedding, c columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from warnings import warn

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from saev.backbones.base import Backbone, BackboneOutput
from saev.errors import UserError
from saev.heads.label_map import match_labels

TEMPERATURE = 0.07
"""Of cosines to prototypes: where CLIP's own starts in training (Radford et al. 2021, §2.5)."""

KINDS = ("classifier", "zero_shot", "prototypes", "instances")


class Head(nn.Module):
    """From a backbone's output to logits over columns."""

    name: str
    """One of KINDS."""
    label_map: Int64[Tensor, " n_classes"] | None
    """Column of each class of the source, -1 where it has none; None: accuracy has no meaning."""
    needs_fit: bool = False
    """Whether ``fit`` on clean embeddings must come first."""

    def __init__(self, name: str, label_map: Tensor | None) -> None:
        super().__init__()
        self.name = name
        self.register_buffer("label_map", label_map)

    def fit(self, pooled: Float[Tensor, "n e"], labels: Int64[Tensor, " n"] | None = None) -> Head:
        """Takes its columns from clean embeddings; returns itself."""
        raise ValueError(f"The {self.name} head is not fitted: it comes with the model.")

    def columns_of(self, labels: Int64[Tensor, " b"]) -> Int64[Tensor, " b"]:
        """The column that is right for each label, -1 for labels without one (leave them out)."""
        if self.label_map is None:
            return torch.full_like(labels, -1)
        columns = self.label_map.to(labels.device)[labels.clamp(min=0)]
        return torch.where(labels < 0, -1, columns)


class ClassifierHead(Head):
    """The model's own classifier."""

    def __init__(self, label_map: Tensor | None) -> None:
        super().__init__("classifier", label_map)

    def forward(self, output: BackboneOutput) -> Float[Tensor, "b c"]:
        if output.logits is None:
            raise ValueError("output.logits is None: this backbone has no classifier.")
        return output.logits


class ZeroShotHead(Head):
    """Cosine to embedded prompts × the model's own scale, + its bias (Radford et al. 2021)."""

    def __init__(
        self, text_tower: Any, class_names: Sequence[str], templates: Sequence[Any]
    ) -> None:
        super().__init__("zero_shot", torch.arange(len(class_names)))
        names = [name.replace("_", " ") for name in class_names]
        self.register_buffer("weights_ec", text_tower.class_weights(names, templates))
        self.scale, self.bias = text_tower.logit_scale, text_tower.logit_bias

    def forward(self, output: BackboneOutput) -> Float[Tensor, "b c"]:
        image_be = F.normalize(output.pooled.float(), dim=-1)
        return self.scale * image_be @ self.weights_ec.to(image_be.device) + self.bias


class PrototypeHead(Head):
    """Cosine to stored embeddings ÷ TEMPERATURE: means of classes, or single images ("instances").

    After ``fit``, the columns of prototypes are the classes seen in it, those of instances the
    images in their order.
    """

    needs_fit = True

    def __init__(self, name: str, n_classes: int | None) -> None:
        super().__init__(name, None)
        self.n_classes = n_classes
        self.register_buffer("prototypes_ce", None)

    def fit(self, pooled: Float[Tensor, "n e"], labels: Int64[Tensor, " n"] | None = None) -> Head:
        """From clean embeddings; prototypes need a label for each (negative: left out)."""
        unit_ne = F.normalize(pooled.float(), dim=-1)
        if self.name == "instances":
            self.prototypes_ce = unit_ne
            return self
        if labels is None or self.n_classes is None:
            raise ValueError("prototypes need labels and class names: use the instances head.")
        present = sorted(set(labels[labels >= 0].tolist()))
        if not present:
            raise ValueError("prototypes need at least one image with a label.")
        self.prototypes_ce = torch.stack([unit_ne[labels == k].mean(dim=0) for k in present])
        label_map = torch.full((self.n_classes,), -1)
        label_map[present] = torch.arange(len(present))
        self.label_map = label_map
        return self

    def forward(self, output: BackboneOutput) -> Float[Tensor, "b c"]:
        if self.prototypes_ce is None:
            raise ValueError(f"The {self.name} head has no columns yet: call fit() first.")
        image_be = F.normalize(output.pooled.float(), dim=-1)
        prototypes_ce = F.normalize(self.prototypes_ce.to(image_be.device), dim=-1)
        return image_be @ prototypes_ce.T / TEMPERATURE


def make_head(
    backbone: Backbone,
    class_names: Sequence[str] | None,
    *,
    prefer: str = "auto",
    templates: Sequence[Any] | None = None,
) -> Head:
    """The read-out for a backbone and the classes of an image source (None: unlabelled).

    ``auto`` takes the first that exists: the model's classifier, zero-shot with its text tower,
    prototypes of the source's classes, retrieval of single images. A name from KINDS asks for that
    one and raises UserError where it cannot be. ``templates`` are strings with one ``{}`` or
    functions of a class name (default: open_clip's seven for ImageNet).
    """
    if prefer not in ("auto", *KINDS):
        raise UserError(f"head={prefer!r} is not one of auto, {', '.join(KINDS)}.")
    if prefer == "auto":
        return _first_head(backbone, class_names, templates)
    if prefer == "instances":
        return PrototypeHead("instances", None)
    if prefer == "classifier":
        if not backbone.has_classifier:
            raise UserError(
                f"{backbone.family} {backbone.name} has no classifier: choose another head."
            )
        return _classifier(backbone, class_names)
    if not class_names:
        raise UserError(f"head={prefer} needs class names, and the image source has none.")
    if prefer == "prototypes":
        return PrototypeHead("prototypes", len(class_names))
    return _zero_shot(backbone, class_names, templates)


def _first_head(
    backbone: Backbone, class_names: Sequence[str] | None, templates: Sequence[Any] | None
) -> Head:
    if backbone.has_classifier:
        return _classifier(backbone, class_names)
    if not class_names:
        return PrototypeHead("instances", None)
    if backbone.has_text:
        try:
            return _zero_shot(backbone, class_names, templates)
        except UserError as error:  # a tokenizer that is not at hand must not end an evaluation
            warn(f"No zero-shot head, class prototypes instead: {error}", stacklevel=3)
    return PrototypeHead("prototypes", len(class_names))


def _classifier(backbone: Backbone, class_names: Sequence[str] | None) -> ClassifierHead:
    if class_names is None or backbone.class_names is None:
        return ClassifierHead(None)
    return ClassifierHead(match_labels(class_names, backbone.class_names, backbone.class_ids))


def _zero_shot(
    backbone: Backbone, class_names: Sequence[str], templates: Sequence[Any] | None
) -> ZeroShotHead:
    if templates is None:
        from open_clip import SIMPLE_IMAGENET_TEMPLATES as templates
    return ZeroShotHead(backbone.text_tower(), class_names, templates)
