"""Candidate names: how likely the model itself finds each in every image.

Suffixes: b images, v columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy import sparse
from torch import Tensor

from saev.backbones import Backbone
from saev.backbones.base import BackboneOutput
from saev.codes.store import CodeStore
from saev.concepts.best_latents import Concepts
from saev.errors import UserError


@dataclass(frozen=True)
class Columns:
    """Candidate names and how present each is in every image."""

    names: list[str]
    presence_bv: Float[np.ndarray, "b v"]
    """Probability of the name, by the model's classifier or its text tower."""
    similarity_bv: Float[np.ndarray, "b v"] | None
    """Cosine to the text; None without a text tower."""
    readout: Any
    """BackboneOutput → logits of the same columns."""


def columns_of(
    backbone: Backbone, store: CodeStore, vocabulary: Sequence[str] | None
) -> Columns | None:
    """The model's own classes, or a vocabulary through its text tower; None where it has neither.

    Raises:
        UserError: a vocabulary for a model without a text tower.
    """
    if vocabulary is not None:
        if not backbone.has_text:
            raise UserError(
                f"naming.vocabulary needs a model with a text tower, and {backbone.name} has none"
            )
        from open_clip import SIMPLE_IMAGENET_TEMPLATES

        tower = backbone.text_tower()
        weights_ev: Tensor = tower.class_weights(
            list(vocabulary), SIMPLE_IMAGENET_TEMPLATES
        ).float()
        unit = torch.nn.functional.normalize(torch.from_numpy(store.embeddings()), dim=-1)
        cosine = (unit @ weights_ev).numpy()
        logits = tower.logit_scale * cosine

        def read(output: BackboneOutput) -> Tensor:
            image = torch.nn.functional.normalize(output.pooled.float(), dim=-1)
            return tower.logit_scale * image @ weights_ev.to(image.device)

        return Columns(list(vocabulary), _softmax(logits), cosine, read)
    logits = store.logits()
    if logits is None or backbone.class_names is None:
        return None
    return Columns(
        distinct_names(backbone.class_names), _softmax(logits.astype(np.float32)), None,
        lambda output: output.logits,
    )  # fmt: skip


def vocabulary_concepts(columns: Columns, splits: Sequence[str]) -> Concepts:
    """Every image under the one text that the model finds most likely: what the model takes it for,
    which need not be true."""
    n_images, n_names = columns.presence_bv.shape
    likeliest = columns.presence_bv.argmax(1)
    shape = (n_images, n_names)
    entries = (np.ones(n_images), (np.arange(n_images), likeliest))
    return Concepts(
        source="vocabulary",
        kind="class",
        names=columns.names,
        images=np.arange(n_images),
        splits=list(splits),
        labels=sparse.csr_matrix(entries, shape=shape),
    )


def _softmax(logits: Float[np.ndarray, "b v"]) -> Float[np.ndarray, "b v"]:
    return torch.from_numpy(np.asarray(logits, np.float32)).softmax(-1).numpy()


def distinct_names(class_names: Sequence[str]) -> list[str]:
    """The first of each class's synonyms, all of them where two classes share it ("crane")."""
    short = [name.split(",")[0].replace("_", " ") for name in class_names]
    return [s if short.count(s) == 1 else f for s, f in zip(short, class_names, strict=True)]
