"""Class-row heads, without training: the rows are embeddings of the classes that exist already.

Shape legend: c classes, e width of a row.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saev.backbones.base import Backbone
from saev.errors import UserError, first_line
from saev.files import read_whole
from saev.heads.own import TEMPERATURE, make_head
from saev.heads.reading import Reading
from saev.heads.trained import TrainedHead, backbone_identity

SOURCES = ("text", "classifier")


class ClassRows:
    """A recipe for a head of kind ``class_rows``; ``.build`` gives the head.

    logits = logit_scale · cos(row, x), x the model's pooled embedding.

    Args:
        rows: "text" embeds the class names with the model's text tower (its own logit scale and
            bias), "classifier" takes the rows of the model's classifier; else a safetensors file
            with one matrix, classes × width.
        class_names: a JSON file (a list of names, or of objects with a "name") or a text file with a
            name per line; None takes the classifier's names, or for "text" the image source's.
        templates: strings with one ``{}``, for "text"; None for open_clip's seven.
        logit_scale: for rows that do not bring one.
    """

    def __init__(
        self,
        rows: str,
        class_names: str | None = None,
        templates: Sequence[str] | None = None,
        logit_scale: float = 1 / TEMPERATURE,
    ) -> None:
        if not logit_scale > 0:
            raise ValueError(f"model.logit_scale={logit_scale} must be a positive number.")
        if templates is not None and rows != "text":
            raise ValueError(f"model.templates are for model.rows=text, and it is {rows!r}.")
        if templates is not None and not all("{}" in template for template in templates):
            raise ValueError(
                f"model.templates={list(templates)}: each needs {{}} for the class name."
            )
        self.rows, self.class_names = rows, class_names
        self.templates, self.logit_scale = templates, logit_scale

    def build(self, backbone: Backbone, source_names: Sequence[str] | None) -> TrainedHead:
        """The head for a backbone; raises UserError where rows, names and model do not fit."""
        names = _read_names(self.class_names) if self.class_names else None
        if self.rows == "text":
            return self._from_text(backbone, names or list(source_names or []))
        weight = (
            _classifier_rows(backbone) if self.rows == "classifier" else _read_rows(Path(self.rows))
        )
        names = names or list(backbone.class_names or [])
        if len(names) != len(weight):
            raise UserError(
                f"{self.rows} has {len(weight)} rows for {len(names)} class names; set "
                "model.class_names to a file with one name per row"
            )
        return self._head(backbone, names, weight, None, self.logit_scale)

    def _from_text(self, backbone: Backbone, names: list[str]) -> TrainedHead:
        head: Any = make_head(backbone, names, prefer="zero_shot", templates=self.templates)
        bias = torch.full((len(names),), float(head.bias))
        return self._head(backbone, names, head.weights_ec.T, bias, float(head.scale))

    def _head(
        self,
        backbone: Backbone,
        names: list[str],
        weight: Float[Tensor, "c e"],
        bias: Float[Tensor, " c"] | None,
        logit_scale: float,
    ) -> TrainedHead:
        width = _embedding_width(backbone)
        if weight.shape[1] != width:
            raise UserError(
                f"the rows of {self.rows} are {weight.shape[1]} wide and the embedding of "
                f"{backbone.name} is {width}; use rows that were made for this model"
            )
        return TrainedHead(
            "class_rows",
            Reading.of("embedding", backbone),
            names,
            backbone_identity(backbone),
            weight,
            bias,
            logit_scale,
            recipe={"rows": self.rows},
        ).eval()


def _embedding_width(backbone: Backbone) -> int:
    device = next(backbone.parameters()).device
    with torch.inference_mode():
        return backbone(torch.zeros(1, 3, *backbone.image_size, device=device)).pooled.shape[1]


def _classifier_rows(backbone: Backbone) -> Float[Tensor, "c e"]:
    classifier = getattr(getattr(backbone.trunk, "model", None), "head", None)
    if not backbone.has_classifier or not isinstance(classifier, nn.Linear):
        raise UserError(
            f"{backbone.family} {backbone.name} has no linear classifier whose rows could be taken; "
            "use model.rows=text or a file"
        )
    return classifier.weight.detach().cpu()


def _read_rows(path: Path) -> Float[Tensor, "c e"]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(
            f"model.rows={path} is neither a file nor one of {', '.join(SOURCES)}; give a "
            "safetensors file with a row per class"
        )
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is not a readable safetensors file ({error})") from error
    matrices = [tensor for tensor in tensors.values() if tensor.ndim == 2]
    if len(matrices) != 1:
        raise UserError(f"{path} holds {len(matrices)} matrices; it must hold one, a row per class")
    return matrices[0].float()


def _read_names(file: str) -> list[str]:
    path = Path(file)
    where = f"model.class_names={file}"
    try:
        text = read_whole(path, f"correct {where}").decode()
        names = json.loads(text) if path.suffix == ".json" else text.split("\n")
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} cannot be read ({first_line(error)})") from error
    entries = names if isinstance(names, list) else []
    plain = [entry.get("name") if isinstance(entry, dict) else entry for entry in entries]
    found = [name.strip() for name in plain if isinstance(name, str) and name.strip()]
    if not found:
        raise UserError(f"{where} must hold a list of names, or objects with one")
    return found
