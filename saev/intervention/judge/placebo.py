"""Placebo hypotheses: how often tests and rungs reject where nobody chose the latents, and how often
they find an effect that was put there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Shaped

from saev.intervention.judge.error_rates import (
    TOLERANCE,
    ErrorRate,
    error_rates,
    exceeded,
    p_values,
)
from saev.intervention.judge.rungs import EFFECT
from saev.intervention.judge.verdict import Criteria, Verdict, decide
from saev.stats.correction import ROUNDING

STRENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Of injected effects, in median margins: at 1 the edit, with all that it does, takes the median unit of
a class to the point where its prediction changes."""
MIDDLE = 1.0


@dataclass(frozen=True)
class Power:
    """How often the rung "effect" holds for an injected effect. Shares, not per cent."""

    strength: float
    """One of ``STRENGTHS``."""
    n: int
    n_latents: int
    """Different sets of latents."""
    effect: float
    """Mean effect that was measured."""
    share: float
    """At α."""
    interval: tuple[float, float]
    """95 %, over sets of latents."""
    share_corrected: float
    """With p ≤ α / h, the level that a lone true hypothesis among h has to reach."""
    interval_corrected: tuple[float, float]
    by_test: dict[str, float] = field(default_factory=dict)
    """At α, of each test of the rung on its own: which of them costs the power."""

    @property
    def strictest(self) -> str | None:
        """The test that passes least, of several the first; None where all pass alike."""
        if not self.by_test or min(self.by_test.values()) == max(self.by_test.values()):
            return None
        return min(self.by_test, key=lambda test: self.by_test[test])


@dataclass(frozen=True)
class Placebo:
    """Error rates and power on this very dictionary, head and set of images."""

    n_hypotheses: int
    n_sets: int
    """Different sets of latents; each is tested on several concepts."""
    n_unmatched: int
    """Sets that have no random latents like them and were passed over."""
    alpha: float
    bound: float
    """Of a share of p ≤ α."""
    rates: list[ErrorRate]
    """Of every test, then of every rung as ``rung_…``."""
    exceeded: list[str]
    """Those that err more often than the bound."""
    power: list[Power] = field(default_factory=list)
    p_values: dict[str, list[float]] = field(default_factory=dict)
    """Of a rung: of its tests, or 1 where it does not hold for another reason."""
    latents: list[list[int]] = field(default_factory=list)
    """Of each hypothesis, in the order of ``p_values``."""
    concepts: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def rung_p_values(row: Verdict, criteria: Criteria) -> dict[str, float]:
    """p of each rung of a lone hypothesis; 1 where its interval or a control stands against it."""
    rungs = decide([row], criteria)[0].rungs
    return {name: rung.p if rung.holds else 1.0 for name, rung in rungs.items()}


def placebo_rates(
    rows: Sequence[Verdict], criteria: Criteria, n_hypotheses: int
) -> tuple[list[ErrorRate], dict[str, list[float]]]:
    """Of every test and every rung, with their p-values; ``n_hypotheses`` are those of the file."""
    tests = p_values(rows)
    rungs = [rung_p_values(row, criteria) for row in rows]
    for name in rungs[0] if rungs else ():
        tests[f"rung_{name}"] = np.array([one[name] for one in rungs])
    rates = error_rates(tests, _sets(rows), criteria.alpha, n_hypotheses)
    return rates, {test: values.tolist() for test, values in tests.items()}


def power_rates(
    rows_of: Mapping[float, Sequence[Verdict]], criteria: Criteria, n_hypotheses: int
) -> list[Power]:
    """Of the rung "effect" at each strength of an injected effect."""
    found = []
    for strength, rows in rows_of.items():
        p = np.array([rung_p_values(row, criteria)[EFFECT] for row in rows])
        [rate] = error_rates({EFFECT: p}, _sets(rows), criteria.alpha, n_hypotheses)
        found.append(
            Power(
                strength, rate.n, rate.n_latents, float(np.mean([row.effect for row in rows])),
                rate.share, rate.interval, rate.share_corrected, rate.interval_corrected,
                {
                    test: float(np.mean(values <= criteria.alpha * (1 + ROUNDING)))
                    for test, values in p_values(rows).items()
                },
            )
        )  # fmt: skip
    return found


def _sets(rows: Sequence[Verdict]) -> Shaped[np.ndarray, " n"]:
    return np.array([str(sorted(row.latents)) for row in rows])


def placebo_of(
    rows: Sequence[Verdict], injected: Mapping[float, Sequence[Verdict]], criteria: Criteria,
    n_hypotheses: int, n_unmatched: int,
) -> Placebo:  # fmt: skip
    """What measured placebo hypotheses say; ``injected`` are those with an effect, per strength."""
    rates, tests = placebo_rates(rows, criteria, n_hypotheses)
    return Placebo(
        len(rows),
        len(set(_sets(rows).tolist())),
        n_unmatched,
        criteria.alpha,
        TOLERANCE * criteria.alpha,
        rates,
        exceeded(rates, criteria.alpha),
        power_rates(injected, criteria, n_hypotheses),
        tests,
        [row.latents for row in rows],
        [row.concept for row in rows],
    )


def marked(verdicts: Sequence[Verdict], placebo: Placebo) -> list[Verdict]:
    """The verdicts, each with the tests that err too often on this model, if there are any."""
    if not placebo.exceeded:
        return list(verdicts)
    shares = {rate.test: rate.share for rate in placebo.rates}
    told = ", ".join(
        f"{test.replace('_', ' ')} {100 * shares[test]:.0f} %" for test in placebo.exceeded
    )
    words = (
        f" On this model that must not be relied on: latents that nobody chose pass {told} of the time, "
        f"where {100 * placebo.bound:.0f} % is the bound."
    )
    return [
        replace(row, error_rates_exceeded=placebo.exceeded, sentence=row.sentence + words)
        for row in verdicts
    ]
