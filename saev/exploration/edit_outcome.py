"""Outcome of an edit: from the answers of clean and edited streams to what changed, and past what.

Suffixes: k draws, u units, c columns.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saev.exploration.answers import ArmOutcome
from saev.intervention.judge.tally import Groups
from saev.intervention.readout import Readout

SHOWN = 10
"""Classes of which probabilities are shown."""
NO_CHANGE = 1e-6
"""A total variation below it is rounding: nothing exceeds anything by it."""

LABELS = {
    "before": "before",
    "selected": "your edit",
    "random_latent": "random latents, same dose",
    "untrained": "untrained dictionary, same length",
    "diffmean": "DiffMean, same length",
}
CONTROLS = ("random_latent", "untrained", "diffmean")


@dataclass(frozen=True)
class Answers:
    """What a head says, before an edit and after it."""

    readout: Readout
    before: Float[Tensor, "u c"]
    """Probabilities, a softmax within each group."""
    selected: Float[Tensor, "u c"]
    grid: tuple[int, int]

    def most_changed(self) -> str:
        """The class whose probability the edit changes most, over all units."""
        change = (self.selected - self.before).abs().sum(0)
        change[list(self.readout.groups.backgrounds)] = -1
        return self.readout.concepts[int(change.argmax())]

    def span(self, target: str) -> tuple[int, int]:
        """Columns of the target's group."""
        groups = self.readout.groups
        return groups.spans[groups.of(self.readout.column(target))]

    def classes(self, target: str) -> tuple[str, ...]:
        """Of the target's group."""
        first, last = self.span(target)
        return self.readout.concepts[first:last]

    def arm(self, name: str, draws: Float[Tensor, "k u c"], target: str) -> ArmOutcome:
        """One arm, shown by its draw that changes most."""
        changes = total_variation(draws, self.before, self.readout.groups)
        strongest = int(changes.argmax())
        found = draws[strongest]
        column = self.readout.column(target)
        first, last = self.span(target)
        means = {
            self.readout.concepts[c]: float(found[:, c].mean()) for c in self._shown(first, last)
        }
        class_map = None
        if self.readout.per == "patch":
            class_map = found[:, first:last].argmax(-1).view(self.grid).cpu().numpy()
        return ArmOutcome(
            label=LABELS[name],
            change=float(changes[strongest]),
            changes=tuple(changes.tolist()),
            target_change=float((found[:, column] - self.before[:, column]).mean()),
            probabilities=means,
            class_map=class_map,
            all_probabilities=found.cpu().numpy(),
        )

    def _shown(self, first: int, last: int) -> list[int]:
        """Columns of a group that are most probable before or after, largest first before."""
        before, after = self.before[:, first:last].mean(0), self.selected[:, first:last].mean(0)
        n = min(SHOWN, last - first)
        best = torch.maximum(before, after).topk(n).indices
        return [first + int(k) for k in best[before[best].argsort(descending=True)]]


def total_variation(
    draws: Float[Tensor, "k u c"], before: Float[Tensor, "u c"], groups: Groups
) -> Float[Tensor, " k"]:
    """½·Σ|p' − p| over the classes of a group, mean over units and groups."""
    return (draws - before).abs().sum(-1).mean(-1) / (2 * len(groups.spans))


def exceeds_controls(arms: Mapping[str, ArmOutcome]) -> dict[str, bool]:
    """Per control that is there: whether the selected edit changes more than each of its draws."""
    own = arms["selected"].change
    return {
        name: bool(own > max(arms[name].change, NO_CHANGE))
        for name in CONTROLS
        if arms[name].absent is None and np.isfinite(arms[name].change)
    }
