"""Injection: an effect of known size put into the running model, for the experiment to find.

Suffixes: b images, u units, t tokens, p positions, d width, c columns, n test images.
"""

from dataclasses import dataclass
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

    def logits(
        self, logits: Float[Tensor, "b u c"], change: Float[Tensor, "b t d"]
    ) -> Float[Tensor, "b u c"]:
        """The logits with the path's share, for edits that changed the stream by so much."""
        along_bu = change[:, self.positions] @ self.direction.to(change)
        if self.per == "image":
            along_bu = along_bu.mean(1, keepdim=True)
        raised = logits.clone()
        raised[..., self.column] += self.slope * along_bu.to(logits)
        return raised


def median_margin(
    logits: Float[np.ndarray, "n u c"],
    base: Int[np.ndarray, "n u"],
    span: tuple[int, int],
    column: int,
    direction: str,
) -> float:
    """Logit that has to be lost or won for a prediction to change, the median over the units that an
    effect looks at.

    With direction "decrease" those that are predicted as the class and have it as their base: its
    logit minus the best other of the group. With "increase" those of other bases: the best other minus
    its logit.
    """
    first, last = span
    others = [c for c in range(first, last) if c != column]
    apart_nu = logits[..., column] - logits[..., others].max(-1)
    if direction == "increase":
        looked_at = (base >= 0) & (base != column) & (apart_nu < 0)
    else:
        looked_at = (base == column) & (apart_nu > 0)
    return float(np.median(np.abs(apart_nu[looked_at]))) if looked_at.any() else float("nan")
