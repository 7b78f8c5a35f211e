"""Replication: the same hypotheses with several dictionaries, and what holds over all of them.

Suffixes: s dictionaries, n images, m weightings, u units.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from saev.intervention.judge.dose_curves import RIVALS, differences, other_changes
from saev.intervention.judge.rungs import EFFECT, LEARNED, LEVEL, RUNGS, SELECTIVE
from saev.intervention.judge.tally import Tally
from saev.intervention.judge.verdict import Evidence
from saev.intervention.result import ExperimentResult
from saev.pages.site import plain
from saev.stats.correction import ROUNDING, benjamini_hochberg
from saev.stats.hierarchy import mean_over_seeds

if TYPE_CHECKING:
    import pandas as pd

Weights = Float[np.ndarray, "m n"]


@dataclass(frozen=True)
class ReplicatedRung:
    """One claim over dictionaries. Shares, not per cent; above 0 is in its favour."""

    holds: bool
    """q ≤ α, the interval above 0, and the rung holds with more than half of the dictionaries."""
    n_holds: int
    """Dictionaries with which the rung holds by itself."""
    n_tested: int
    """Dictionaries with which it could be tested."""
    estimate: float
    """effect: over the strongest random latents; learned: over the strongest untrained dictionary;
    selective: other change less than the closest rival's, at half of the target."""
    interval: tuple[float, float]
    """95 %, with dictionaries and images as random effects."""
    p: float
    q: float = math.nan


@dataclass(frozen=True)
class Replicated:
    """What several dictionaries say of one concept."""

    concept: str
    verdicts: list[str]
    """Of each dictionary; "not tested" where it could not be."""
    rungs: dict[str, ReplicatedRung]
    twins: list[float]
    """For each pair of dictionaries the correlation of the latents chosen, over discovery units."""


@dataclass(frozen=True)
class Replication:
    """The same hypotheses with several dictionaries."""

    results: list[ExperimentResult]
    concepts: list[Replicated]

    def to_dict(self) -> list[dict[str, Any]]:
        """What ``replication.json`` says; JSON-able."""
        return [plain(asdict(one)) for one in self.concepts]

    def to_frame(self) -> "pd.DataFrame":
        """A row per concept and rung."""
        import pandas as pd

        return pd.DataFrame(
            [
                {"concept": one.concept, "rung": name, **asdict(rung)}
                for one in self.concepts
                for name, rung in one.rungs.items()
            ]
        )

    def __repr__(self) -> str:
        held = ", ".join(
            f"{sum(one.rungs[name].holds for one in self.concepts if name in one.rungs)} {name}"
            for name in RUNGS
        )
        return (
            f"Replication({len(self.results)} dictionaries, {len(self.concepts)} concepts: {held})"
        )


def replicate(results: Sequence[ExperimentResult]) -> Replication:
    """Combines experiments that differ in nothing but the dictionary.

    A rung is tested again over dictionaries and images together, both as random effects, from what
    leaving out one image changes in each dictionary's statistic; corrected over the concepts.

    Raises:
        ValueError: fewer than two experiments, or experiments on other hypotheses or test images.
    """
    first = results[0]
    if len(results) < 2:
        raise ValueError("one experiment has nothing to be replicated with")
    ids = [item.image_id for item in first.test.items]
    for other in results[1:]:
        if other.setting.file != first.setting.file:
            raise ValueError("the experiments are about different hypotheses")
        if [item.image_id for item in other.test.items] != ids:
            raise ValueError("the experiments are on different test images")
    names = list(dict.fromkeys(p.concept for one in results for p in one.proposals))
    found = [_over_dictionaries(name, results) for name in names]
    alpha = first.setting.file.alpha * (1 + ROUNDING)
    for name in RUNGS:
        there = [k for k, one in enumerate(found) if name in one.rungs]
        q = benjamini_hochberg([found[k].rungs[name].p for k in there])
        for k, value in zip(there, q, strict=True):
            rung = found[k].rungs[name]
            most = 2 * rung.n_holds > len(results)
            holds = bool(value <= alpha and rung.interval[0] > 0 and most)
            rungs = {**found[k].rungs, name: replace(rung, q=float(value), holds=holds)}
            found[k] = replace(found[k], rungs=rungs)
    return Replication(list(results), found)


def _over_dictionaries(concept: str, results: Sequence[ExperimentResult]) -> Replicated:
    verdicts = [{v.concept: v for v in one.verdicts}.get(concept) for one in results]
    tested = [(one, v) for one, v in zip(results, verdicts, strict=True) if v is not None]
    evidence = [one.evidence_of(concept) for one, _ in tested]
    alpha = results[0].setting.file.alpha
    rungs = {}
    for name, statistic in STATISTICS.items():
        held = [v.rungs[name].holds for _, v in tested if name in v.rungs]
        if not held:
            continue
        cells_sn = np.stack(
            [pseudo_values(statistic(e, alpha), len(e.clean.n_base)) for e in evidence]
        )
        mean, low, high, p = mean_over_seeds(cells_sn)
        p = 1.0 if math.isnan(p) else p
        rungs[name] = ReplicatedRung(False, sum(held), len(held), mean, (low, high), p)
    return Replicated(
        concept,
        ["not tested" if v is None else v.verdict for v in verdicts],
        rungs,
        [twin_correlation(a, b, concept) for a, b in combinations([one for one, _ in tested], 2)],
    )


Statistic = Callable[[Weights], Float[np.ndarray, " m"]]
"""Of weightings of the images."""


def pseudo_values(statistic: Statistic, n_images: int) -> Float[np.ndarray, " n"]:
    """What each image contributes: n·θ − (n − 1)·θ without it (Quenouille 1956; Tukey 1958).

    Their mean is the jackknife estimate, and their spread that of the statistic over images. nan
    for images that change nothing for want of the class.
    """
    without = np.ones((n_images, n_images)) - np.eye(n_images)
    whole, *left = statistic(np.vstack([np.ones(n_images), without]))
    with np.errstate(invalid="ignore"):
        return n_images * whole - (n_images - 1) * np.array(left)


def _over_strongest(rivals: str) -> Callable[[Evidence, float], Statistic]:
    """Effect over the strongest α of random latents, or over the strongest untrained dictionary."""

    def statistic(e: Evidence, alpha: float) -> Statistic:
        ask, clean = e.question, e.clean
        stack = e.random if rivals == "random" else e.untrained
        assert stack is not None
        effects = ask.effects(stack, clean)
        level = np.quantile(effects, 1 - alpha) if rivals == "random" else effects.max()
        strongest = np.flatnonzero(effects >= level)

        def excess(weights_mn: Weights) -> np.ndarray:
            others = [
                ask.resampled(Tally(*(values[r] for values in stack)), clean, weights_mn)
                for r in strongest
            ]
            return ask.resampled(e.selected, clean, weights_mn) - np.mean(others, 0)

        return excess

    return statistic


def _less_than_rivals(e: Evidence, alpha: float) -> Statistic:
    """Other change of the closest rival minus that of the selected latents, at half of the target."""
    ask, clean, curves = e.question, e.clean, e.curves
    assert curves is not None

    def less(weights_mn: Weights) -> np.ndarray:
        own, *others = (
            other_changes(ask, clean, curves.arms[arm], weights_mn, LEVEL)
            for arm in ("selected", *RIVALS)
        )
        found = [-differences(own, other) for other in others]
        return np.minimum.reduce(found)

    return less


STATISTICS: dict[str, Callable[[Evidence, float], Statistic]] = {
    EFFECT: _over_strongest("random"),
    LEARNED: _over_strongest("untrained"),
    SELECTIVE: _less_than_rivals,
}


def twin_correlation(a: ExperimentResult, b: ExperimentResult, concept: str) -> float:
    """Pearson's correlation of the chosen latents' codes, summed in units of the largest, over the
    discovery units of two dictionaries; near 1 where both found the same thing."""
    summed = []
    for one in (a, b):
        p = next(p for p in one.proposals if p.concept == concept)
        units = one.discovery.units["sae"]
        latents = list(p.tried[0])
        codes_us = units.codes[:, latents] / units.stats.largest[latents]
        summed.append(np.asarray(codes_us.sum(1)).ravel())
    if min(np.ptp(values) for values in summed) == 0:
        return math.nan
    return float(np.corrcoef(*summed)[0, 1])
