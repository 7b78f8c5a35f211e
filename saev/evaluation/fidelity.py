"""Downstream fidelity: how much of a prediction survives when activations are replaced."""

import math
from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saev.backbones import Backbone, BackboneOutput
from saev.backbones.taps import Edit
from saev.heads.own import Head
from saev.heads.trained import TrainedHead
from saev.metrics.prediction_fidelity import PredictionFidelity, kl_share_recovered


def predictions_under(
    arms: Mapping[str, Edit],
    acts_btd: Float[Tensor, "b t d"],
    backbone: Backbone,
    layer: int,
    head: Head | TrainedHead,
) -> Iterator[tuple[str, Float[Tensor, "..."]]]:
    """Each arm's name and the head's logits when its edit replaces the residual stream at ``layer``."""
    for name, edit in arms.items():
        yield name, head(backbone.resume(edit(acts_btd), layer)).float()


def recovered(flat: Mapping[str, float]) -> dict[str, float]:
    """``fidelity/kl_recovered`` of flat metrics; empty where ablating the mean changes nothing."""
    share = kl_share_recovered(flat["fidelity/kl/reconstructed"], flat["fidelity/kl/mean_ablated"])
    return {} if math.isnan(share) else {"fidelity/kl_recovered": share}


class Fidelity:
    """Runs the rest of the model once per control arm and compares its predictions.

    The part of the network up to the tap is computed once by the caller and shared by all arms.

    Args:
        backbone: the frozen model.
        layer: the block after which activations are replaced.
        head: maps the model's output to logits.
        arms: name → edit of the residual stream, see :func:`saev.editing.control_arms`.
    """

    def __init__(
        self, backbone: Backbone, layer: int, head: Head, arms: Mapping[str, Edit]
    ) -> None:
        self.backbone, self.layer, self.arms = backbone, layer, arms
        device = next(backbone.parameters()).device
        self.head = head.to(device)
        self.scores = {name: PredictionFidelity().to(device) for name in ("clean", *arms)}

    @torch.no_grad()
    def update(
        self,
        acts_btd: Float[Tensor, "b t d"],
        clean: BackboneOutput,
        targets_b: Int[Tensor, " b"],
    ) -> None:
        """Adds a batch: its residual stream at the tap, the untouched model's output on it, and the
        logit column of each image's label (−1 where there is none)."""
        clean_logits_bc = self.head(clean).float()
        self.scores["clean"].update(clean_logits_bc, clean_logits_bc, targets_b)
        for name, logits_bc in predictions_under(
            self.arms, acts_btd, self.backbone, self.layer, self.head
        ):
            self.scores[name].update(logits_bc, clean_logits_bc, targets_b)

    def compute(self) -> dict[str, float]:
        """Flat ``fidelity/<metric>/<arm>`` values and ``fidelity/kl_recovered``."""
        flat: dict[str, float] = {}
        for arm, score in self.scores.items():
            for metric, value in score.compute().items():
                flat[f"fidelity/{metric}/{arm}"] = float(value)
        return flat | recovered(flat)
