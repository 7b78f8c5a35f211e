"""Injection: an effect of known size put into the running model, for the experiment to find.

Suffixes: b images, u units, t tokens, p positions, d width, c columns, n test images.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Injection:
    """A path from the tap to one class: its logit moves with the stream along a direction.

    What is added is ``slope`` · ⟨x' − x, direction⟩, x' the edited and x the untouched stream, so that
    untouched images keep their predictions. It is there for every edit, whatever its arm.
    """

    column: int
    direction: Float[Tensor, " d"]
    """Unit vector."""
    slope: float
    """Logits per unit of the stream."""
    positions: Int[Tensor, " p"]
    """Tokens that are read: those of the units for heads that answer per patch."""
    per: str
    """What a unit is: "patch", or "image", for which the tokens' mean counts."""
    images: Bool[np.ndarray, " n"]
    """Test images that are tallied."""

    @cached_property
    def place(self) -> Int[np.ndarray, " n"]:
        """Where each test image is among ``images``; −1 if it is not."""
        return np.where(self.images, np.cumsum(self.images) - 1, -1)

    def towards_class(
        self, column: int, slope: float, images: Bool[np.ndarray, " n"]
    ) -> "Injection":
        """The same path to another class, on its own images."""
        return replace(self, column=column, slope=slope, images=images)

    def along(self, change: Float[Tensor, "b t d"]) -> Float[Tensor, "b u"]:
        """How far each unit moves along the direction."""
        along_bu = change[:, self.positions] @ self.direction.to(change)
        return along_bu.mean(1, keepdim=True) if self.per == "image" else along_bu

    def logits(
        self, logits: Float[Tensor, "b u c"], change: Float[Tensor, "b t d"]
    ) -> Float[Tensor, "b u c"]:
        """The logits with the path's share, for edits that changed the stream by so much."""
        raised = logits.clone()
        raised[..., self.column] += self.slope * self.along(change).to(logits)
        return raised


def margins(
    logits: Float[np.ndarray, "n u c"],
    base: Int[np.ndarray, "n u"],
    span: tuple[int, int],
    column: int,
    direction: str,
) -> Float[np.ndarray, "n u"]:
    """Logit that has to be lost or won for a prediction to change, at or below 0 where it has; NaN for
    units that an effect does not look at.

    With direction "decrease" it looks at units that have the class as their base: its logit minus the
    best other of the group. With "increase" at those of other bases: the best other minus its logit.
    """
    first, last = span
    others = [c for c in range(first, last) if c != column]
    apart_nu = logits[..., column] - logits[..., others].max(-1)
    if direction == "increase":
        return np.where((base >= 0) & (base != column), -apart_nu, np.nan)
    return np.where(base == column, apart_nu, np.nan)


def fitting_slope(
    before: Float[np.ndarray, " u"],
    after: Float[np.ndarray, " u"],
    along: Float[np.ndarray, " u"],
    strength: float,
) -> float:
    """How steep a path must be for the median margin to end at (1 − strength) times what it was.

    A unit's margin ends at ``after`` − slope · ``along``, so it is at or below a level where the slope is
    at least (``after`` − level) / ``along``: half of the units are where it is the median of these. Units
    that the edit does not move along the path are left out; NaN where there are no others.
    """
    moved = along > 0
    if not moved.any():
        return float("nan")
    level = (1 - strength) * np.median(before[moved])
    return float(np.median((after[moved] - level) / along[moved]))
