"""Mean trade-off of the arms over the hypotheses of a file.

Suffixes: h hypotheses, r weightings of the test images, n images, k doses.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from saev.intervention.judge.dose_curves import LEVELS, Curves, other_changes
from saev.intervention.judge.tally import Clean, Question
from saev.stats.bootstrap import N_BOOTSTRAP, image_weights, interval


class HypothesisCurves(NamedTuple):
    """The trade-off curves of one hypothesis, on its own test images."""

    question: Question
    clean: Clean
    curves: Curves
    images: Int[np.ndarray, " n"]
    """Their positions among all test images."""


class TradeoffPath(NamedTuple):
    """What one arm changes at every dose. Shares, not per cent."""

    target_k: Float[np.ndarray, " k"]
    other_k: Float[np.ndarray, " k"]


@dataclass(frozen=True)
class MeanTradeoff:
    """One arm at one level, means over hypotheses. Shares, not per cent; nan where none is left."""

    arm: str
    level: float
    """Target change."""
    other_change: float
    interval: tuple[float, float]
    """95 %, of the mean over these hypotheses, bootstrap over test images."""
    n_concepts: int
    """Hypotheses of which the arm changes so much of the target, over which the mean is."""
    n_missing: int
    """Those of which it never does, at any dose."""
    difference: float
    """Mean of the selected latents' other change minus this arm's: below 0 where they change less."""
    difference_interval: tuple[float, float]
    n_pairs: int
    """Hypotheses of which both do, over which the difference is."""


def mean_tradeoff(
    found: Sequence[HypothesisCurves], n_images: int, n_draws: int = N_BOOTSTRAP, seed: int = 0
) -> list[MeanTradeoff]:
    """Every arm at every level. Each hypothesis weighs the same; in it units count, not images.

    The images of a draw are drawn once for all hypotheses and arms, so that intervals are paired by
    image and hypotheses that share images are not taken to be independent. In every draw the mean is
    over the hypotheses that reach the level in it.

    Args:
        n_images: of the test, of which ``HypothesisCurves.images`` are some.
    """
    weights_rn = image_weights(n_images, n_draws, np.random.default_rng(seed))
    weights_rn = np.vstack([np.ones(n_images), weights_rn])
    rows = []
    for level in LEVELS:
        other = {arm: _others(found, arm, weights_rn, level) for arm in found[0].curves.arms}
        for arm, other_hr in other.items():
            apart_hr = other["selected"] - other_hr
            if arm == "selected":
                apart_hr = np.full(other_hr.shape, np.nan)
            n_concepts = int((~np.isnan(other_hr[:, 0])).sum())
            mean_r, apart_r = _mean_known(other_hr), _mean_known(apart_hr)
            rows.append(
                MeanTradeoff(
                    arm, level, float(mean_r[0]), interval(mean_r[1:]), n_concepts,
                    len(found) - n_concepts, float(apart_r[0]), interval(apart_r[1:]),
                    int((~np.isnan(apart_hr[:, 0])).sum()),
                )
            )  # fmt: skip
    return rows


def tradeoff_paths(one: HypothesisCurves) -> dict[str, TradeoffPath]:
    """Target and other change of each arm at every dose."""
    paths = {}
    for arm, tallies in one.curves.arms.items():
        parts = one.question.trade(tallies, one.clean)
        paths[arm] = TradeoffPath(
            parts.target.sum(-1) / parts.n_target.sum(), parts.other.sum(-1) / parts.n_other.sum()
        )
    return paths


def mean_paths(found: Sequence[HypothesisCurves]) -> dict[str, TradeoffPath]:
    """The mean over hypotheses at every dose."""
    paths = [tradeoff_paths(one) for one in found]
    return {arm: TradeoffPath(*np.mean([path[arm] for path in paths], axis=0)) for arm in paths[0]}


def _others(
    found: Sequence[HypothesisCurves], arm: str, weights_rn: Float[np.ndarray, "r n"], level: float
) -> Float[np.ndarray, "h r"]:
    """Other change of each hypothesis, nan where the level is not reached."""
    other_hr = np.stack(
        [
            other_changes(
                one.question, one.clean, one.curves.arms[arm], weights_rn[:, one.images], level
            )
            for one in found
        ]
    )
    return np.where(np.isfinite(other_hr), other_hr, np.nan)


def _mean_known(values_hr: Float[np.ndarray, "h r"]) -> Float[np.ndarray, " r"]:
    """Over the hypotheses that have a value; nan where none has."""
    known_hr = ~np.isnan(values_hr)
    n_r = known_hr.sum(0)
    total_r = np.where(known_hr, values_hr, 0.0).sum(0)
    return np.divide(total_r, n_r, out=np.full(len(n_r), np.nan), where=n_r > 0)
