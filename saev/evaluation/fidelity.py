"""Downstream fidelity: how much of a prediction survives when activations are replaced."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saev.backbones import Backbone, BackboneOutput
from saev.backbones.taps import Edit
from saev.heads.own import Head
from saev.metrics.prediction_fidelity import PredictionFidelity


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
        for name, edit in self.arms.items():
            logits_bc = self.head(self.backbone.resume(edit(acts_btd), self.layer)).float()
            self.scores[name].update(logits_bc, clean_logits_bc, targets_b)

    def compute(self) -> dict[str, float]:
        """Flat ``fidelity/<metric>/<arm>`` values and ``fidelity/kl_recovered``.

        kl_recovered = 1 − KL(clean ‖ reconstructed) / KL(clean ‖ mean-ablated): 1 for a perfect
        reconstruction, 0 for one no better than the mean activation. Absent when ablating the mean
        changes nothing at all.
        """
        flat: dict[str, float] = {}
        for arm, score in self.scores.items():
            for metric, value in score.compute().items():
                flat[f"fidelity/{metric}/{arm}"] = float(value)
        kl_mean = flat["fidelity/kl/mean_ablated"]
        if kl_mean > 0:
            flat["fidelity/kl_recovered"] = 1.0 - flat["fidelity/kl/reconstructed"] / kl_mean
        return flat
