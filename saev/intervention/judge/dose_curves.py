"""Trade-off of arms: what else changes where so much of the target has changed.

Suffixes: r bootstrap draws, k doses, n images.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from saev.intervention.judge.tally import Clean, Question, Tally
from saev.stats.tradeoff import other_at_target

LEVELS = (0.25, 0.5, 0.75)
"""Target changes at which arms are compared."""
RIVALS = ("diffmean", "linear_probe")
"""Arms that need labels and no dictionary: a selective edit changes less besides the target."""


@dataclass(frozen=True)
class Curves:
    """Counts of each arm at several doses, in increasing order."""

    doses: tuple[float, ...]
    """Multiples of the tested edit."""
    arms: Mapping[str, Tally]
    """A stack over doses; of arms with several draws their mean."""


@dataclass(frozen=True)
class TradeoffRow:
    """One arm at one level. Shares, not per cent; nan where it never changes so much."""

    arm: str
    level: float
    """Target change."""
    other_change: float
    interval: tuple[float, float]
    difference: float
    """Of the selected latents' other change from this one: below 0 where they change less."""
    difference_interval: tuple[float, float]


def other_changes(
    ask: Question, clean: Clean, tallies: Tally, weights_rn: Float[np.ndarray, "r n"], level: float
) -> Float[np.ndarray, " r"]:
    """Other change of one arm at a target change, per weighting; inf where it is never reached."""
    parts = ask.trade(tallies, clean)
    return other_at_target(
        parts.target, parts.n_target, parts.other, parts.n_other, weights_rn, level
    )


def differences(
    selected_r: Float[np.ndarray, " r"], rival_r: Float[np.ndarray, " r"]
) -> Float[np.ndarray, " r"]:
    """Selected − rival; inf where the selected latents never reach the level, −inf where only the
    rival does not; nan where the images drawn do not show the concept."""
    with np.errstate(invalid="ignore"):
        found = selected_r - rival_r
    unknown = np.isnan(selected_r) | np.isnan(rival_r)
    return np.where(unknown, np.nan, np.where(np.isinf(selected_r), np.inf, found))


def outer_interval(drawn_r: Float[np.ndarray, " r"]) -> tuple[float, float]:
    """95 %, from the nearest draws outwards, so that infinite ones need no arithmetic."""
    known = drawn_r[~np.isnan(drawn_r)]
    if not len(known):
        return math.nan, math.nan
    return (
        float(np.quantile(known, 0.025, method="lower")),
        float(np.quantile(known, 0.975, method="higher")),
    )


def tradeoff_rows(
    ask: Question, clean: Clean, curves: Curves, weights_rn: Float[np.ndarray, "r n"]
) -> list[TradeoffRow]:
    """Every arm at every level, with intervals paired by image; ``weights_rn[0]`` are ones."""
    rows = []
    for level in LEVELS:
        other = {
            arm: other_changes(ask, clean, tallies, weights_rn, level)
            for arm, tallies in curves.arms.items()
        }
        for arm, values in other.items():
            apart = differences(other["selected"], values)
            if arm == "selected":
                apart = np.full(len(values), np.nan)
            rows.append(
                TradeoffRow(
                    arm, level, float(values[0]), outer_interval(values[1:]), float(apart[0]),
                    outer_interval(apart[1:]),
                )
            )  # fmt: skip
    return rows
