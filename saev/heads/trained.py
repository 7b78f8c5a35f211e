"""Trained heads: from a backbone's output, clean or edited, to logits over classes.

Shape legend: b batch, r rows read of each image, e width of a row, c classes, gh gw patch grid.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from saev.backbones.base import Backbone, BackboneOutput
from saev.errors import UserError
from saev.files import write_atomically
from saev.heads.label_map import match_labels
from saev.heads.reading import Reading

KINDS = ("classification", "segmentation", "class_rows")
CONFIG_NAME = "config.json"
WEIGHTS_NAME = "weights.safetensors"
FORMAT_VERSION = 1


class TrainedHead(nn.Module):
    """Rows of weights, one per class, on features of one backbone; plain torch, frozen.

    logits = weight · x + bias; for ``class_rows``, where the rows are embeddings of the classes,
    logits = logit_scale · cos(row, x) + bias (Radford et al. 2021, §2.5).

    Args:
        kind: one of KINDS.
        reading: what is read of a ``BackboneOutput``.
        class_names: of the rows, in order.
        backbone: identity of the model the head belongs to: family, name, weights, spec.
        weight: a row per class.
        bias: one number per class; None for zeros.
        logit_scale: for ``class_rows``.
        recipe: how the head came about; JSON-able, kept in its config.

    Raises:
        ValueError: shapes, kind or features that do not go together.
    """

    needs_fit = False

    def __init__(
        self,
        kind: str,
        reading: Reading,
        class_names: list[str],
        backbone: dict[str, Any],
        weight: Float[Tensor, "c e"],
        bias: Float[Tensor, " c"] | None = None,
        logit_scale: float | None = None,
        recipe: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r} is not one of {', '.join(KINDS)}.")
        if (kind == "segmentation") != (reading.features == "patches"):
            raise ValueError(
                f"A {kind} head cannot read features={reading.features!r}; segmentation reads "
                "'patches', the others 'class', 'pooled' or 'embedding'."
            )
        if (kind == "class_rows") != (logit_scale is not None):
            raise ValueError(
                f"logit_scale={logit_scale} with kind={kind!r}: class_rows alone has one."
            )
        if len(weight) != len(class_names):
            raise ValueError(f"weight has {len(weight)} rows for {len(class_names)} class names.")
        if bias is not None and len(bias) != len(weight):
            raise ValueError(f"bias has {len(bias)} numbers for {len(weight)} rows.")
        self.kind, self.reading, self.class_names = kind, reading, list(class_names)
        self.backbone, self.recipe = dict(backbone), recipe or {}
        self.logit_scale = logit_scale
        self.weight = nn.Parameter(weight.detach().float().clone(), requires_grad=False)
        bias = torch.zeros(len(weight)) if bias is None else bias.detach().float().clone()
        self.bias = nn.Parameter(bias, requires_grad=False)

    @property
    def features(self) -> str:
        """What is read: "class", "pooled", "embedding" or "patches"."""
        return self.reading.features

    @property
    def name(self) -> str:
        """For tables."""
        return f"trained {self.kind.replace('_', ' ')}"

    @property
    def label_map(self) -> Int64[Tensor, " n"]:
        """Column of each of its own classes: itself."""
        return torch.arange(len(self.class_names), device=self.weight.device)

    def columns_of(self, labels: Int64[Tensor, "*any"]) -> Int64[Tensor, "*any"]:
        """Labels that index ``class_names`` are columns already; negative ones are left out."""
        return labels.clamp(min=-1)

    def forward(self, output: BackboneOutput) -> Float[Tensor, "b c"] | Float[Tensor, "b c gh gw"]:
        """One set of logits per image, or one per patch for segmentation."""
        return self.of_rows(self.reading(output))

    def of_rows(
        self, rows: Float[Tensor, "b r e"]
    ) -> Float[Tensor, "b c"] | Float[Tensor, "b c gh gw"]:
        """The same from features that were read before (recorded ones, say)."""
        rows = rows.to(self.weight.dtype)
        weight = self.weight
        if self.logit_scale is not None:
            rows, weight = F.normalize(rows, dim=-1), F.normalize(weight, dim=-1) * self.logit_scale
        logits_brc = rows @ weight.T + self.bias
        if self.kind != "segmentation":
            return logits_brc[:, 0]
        return logits_brc.transpose(1, 2).unflatten(2, self.reading.grid)

    def upsample(
        self, logits: Float[Tensor, "b c gh gw"], size: tuple[int, int]
    ) -> Float[Tensor, "b c h w"]:
        """Logits per pixel of a picture of ``size`` (height, width), by bilinear interpolation."""
        if self.kind != "segmentation":
            raise ValueError(f"upsample is for segmentation heads; this is a {self.kind} head.")
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)

    def columns_for(self, source_names: list[str] | None, source: str) -> Int64[Tensor, " n"]:
        """The column of each class of an image source, −1 for classes the head does not know.

        Raises UserError when the source has no classes, or none of them is a class of the head.
        """
        if not source_names:
            raise UserError(
                f"the image source {source!r} has no class names to score a head with; "
                "use images with labels or masks"
            )
        if source_names == self.class_names:
            return torch.arange(len(source_names))
        columns = match_labels(source_names, self.class_names)
        if columns is None:
            raise UserError(
                f"none of the classes of {source!r} ({_few(source_names)}) is one of the head's "
                f"({_few(self.class_names)}); use the images it was trained for"
            )
        return columns

    def check_backbone(self, backbone: Backbone) -> None:
        """Raises UserError unless the head was made for this model with these weights and grid."""
        own, found = self.backbone, backbone.weights["sha256"]
        expected = own.get("weights", {}).get("sha256")
        if (own.get("family"), own.get("name"), expected) != (
            backbone.family,
            backbone.name,
            found,
        ):
            raise UserError(
                f"the head belongs to {own.get('family')} {own.get('name')} with weights "
                f"{str(expected)[:12]}…, this is {backbone.family} {backbone.name} with "
                f"{found[:12]}…; use that backbone, or train a head on this one"
            )
        here = Reading.of(self.features, backbone)
        if here != self.reading:
            raise UserError(
                f"the head reads a grid of {self.reading.grid} patches and {self.reading.n_tokens} "
                f"tokens, {backbone.name} at {backbone.image_size} pixels has {here.grid} and "
                f"{here.n_tokens}; set backbone.image_size to what the head was trained with"
            )

    def save(self, directory: str | Path) -> Path:
        """Writes the folder that ``load_head`` reads and returns its path.

        Each file appears whole or not at all.
        """
        from safetensors.torch import save

        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "format_version": FORMAT_VERSION,
            "kind": self.kind,
            "features": self.features,
            "reading": self.reading.to_dict(),
            "class_names": self.class_names,
            "backbone": self.backbone,
            "logit_scale": self.logit_scale,
            "recipe": self.recipe,
        }
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.state_dict().items()}
        text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        # the config comes last: a folder that has one is complete
        write_atomically(folder / WEIGHTS_NAME, save(tensors))
        write_atomically(folder / CONFIG_NAME, text)
        return folder


def backbone_identity(backbone: Backbone) -> dict[str, Any]:
    """What a head remembers of the model it belongs to; ``spec`` rebuilds it."""
    return {
        "family": backbone.family,
        "name": backbone.name,
        "weights": dict(backbone.weights),
        "spec": dict(backbone.spec),
        "transform": dict(backbone.transform_spec),
    }


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
