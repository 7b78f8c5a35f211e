"""Rungs of a verdict: effect, learned, selective, each with its estimate, interval, p and q.

Suffixes: u untrained dictionaries, r bootstrap draws, n images.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from saev.intervention.judge.dose_curves import (
    RIVALS,
    Curves,
    differences,
    other_changes,
    outer_interval,
)
from saev.intervention.judge.tally import Clean, Question, Tally
from saev.stats.bootstrap import interval
from saev.stats.tests import sign_flip_p

EFFECT, LEARNED, SELECTIVE = "effect", "learned", "selective"
RUNGS = {
    EFFECT: "more than random latents of the same dose, and than random latents and directions of the "
    "same length",
    LEARNED: "more than the best latents of dictionaries that were never trained, at the same length",
    SELECTIVE: "less change of everything else than DiffMean and the probe direction, at the same "
    "target change",
}
"""What each one says."""
LEVEL = 0.5
"""Target change at which the selective rung compares."""


def highest_rung(holds: Mapping[str, bool]) -> str | None:
    """The highest rung that holds with all below it; None where the first does not."""
    found = None
    for name in RUNGS:
        if not holds.get(name, False):
            break
        found = name
    return found


@dataclass(frozen=True)
class Rung:
    """One claim about the edited latents. Shares, not per cent."""

    holds: bool
    estimate: float
    """effect: the effect; learned: its excess over the mean of the untrained dictionaries;
    selective: other change minus that of the closest rival, below 0 where it is less."""
    interval: tuple[float, float]
    """95 %."""
    p: float
    q: float = math.nan
    """p after Benjamini–Hochberg over the hypotheses of the file."""


def learned_rung(
    ask: Question, clean: Clean, selected: Tally, untrained: Tally,
    weights_rn: Float[np.ndarray, "r n"], n_flips: int,
) -> Rung:  # fmt: skip
    """The selected latents against those chosen alike in each untrained dictionary, at one length.

    p: sign flips over images, against the dictionary that does most on these very images. So with 19
    of them a dictionary that is no better than an untrained one passes in at most one of 20 cases,
    whatever the number of images. The interval resamples images and dictionaries.
    """
    strongest = int(np.argmax(ask.effects(untrained, clean)))
    own_n = ask.per_image(selected, clean)
    rival_n = ask.per_image(untrained, clean)[strongest]
    weights_ru = np.random.default_rng(len(own_n)).multinomial(
        len(untrained.changed), np.full(len(untrained.changed), 1 / len(untrained.changed)),
        len(weights_rn),
    )  # fmt: skip
    weights_ru[0] = 1
    effects_ru = np.stack(
        [
            ask.resampled(Tally(*(values[u] for values in untrained)), clean, weights_rn)
            for u in range(len(untrained.changed))
        ],
        1,
    )
    mean_r = (effects_ru * weights_ru).sum(1) / weights_ru.sum(1)
    excess_r = ask.resampled(selected, clean, weights_rn) - mean_r
    p = sign_flip_p(own_n - rival_n, n_flips=n_flips)
    return Rung(False, float(excess_r[0]), interval(excess_r[1:]), p)


def selective_rung(
    ask: Question, clean: Clean, curves: Curves, weights_rn: Float[np.ndarray, "r n"]
) -> Rung:
    """The selected latents against each of ``RIVALS`` where half of the target has changed.

    p: share of bootstrap draws over images in which they do not change less than the rival, the
    larger of the two. An edit that never changes so much of the target is not selective.
    """
    own_r = other_changes(ask, clean, curves.arms["selected"], weights_rn, LEVEL)
    found = []
    for rival in RIVALS:
        rival_r = other_changes(ask, clean, curves.arms[rival], weights_rn, LEVEL)
        apart_r = differences(own_r, rival_r)
        n_worse = int((~(apart_r[1:] < 0)).sum())
        p = (1 + n_worse) / len(apart_r)
        found.append((p, float(apart_r[0]), outer_interval(apart_r[1:])))
    p, estimate, between = max(found, key=lambda one: (one[0], np.nan_to_num(one[1], nan=math.inf)))
    return Rung(False, estimate, between, p)
