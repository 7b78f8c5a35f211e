"""Verdict on each hypothesis, from the effects of its arms.

Suffixes: r draws, n images, h hypotheses.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from saev.intervention.judge.tally import Clean, Question, Tally, other_change
from saev.stats.bootstrap import bootstrap_interval
from saev.stats.correction import ROUNDING, benjamini_hochberg
from saev.stats.tests import (
    cliffs_delta,
    max_null,
    rank_p,
    sign_flip_p,
    smallest_detectable,
)

SUPPORTED, NOT_SUPPORTED, NO_POWER = "supported", "not_supported", "no_power"


@dataclass(frozen=True)
class Evidence:
    """The effects of one hypothesis's arms, on its own test images."""

    question: Question
    clean: Clean
    selected: Tally
    random: Tally
    """Matched random latents, a stack of draws."""
    directions: dict[str, Tally]
    """``random_direction`` and ``covariance_direction``, a stack of draws each."""
    best_of: int = 1
    p_selection: float | None = None
    """Of the latents' fit to the concept on the discovery images; None where none was asked for."""


@dataclass(frozen=True)
class Verdict:
    """What ``verdict.json`` says of one hypothesis. Shares, not per cent."""

    hypothesis: str
    concept: str
    verdict: str
    effect: float
    interval: tuple[float, float]
    """95 %, bootstrap over images."""
    p: float
    """Rank of the effect among matched random latents."""
    p_images: float
    """Paired over images: the effect above the mean of the random latents (sign flips)."""
    p_selection: float | None
    """Rank of the latents' fit to the concept's labels among the best fits to shuffled labels."""
    q: float
    """The largest of the three after Benjamini–Hochberg over the hypotheses of the file."""
    effect_size: float
    """(effect − mean of the null) / standard deviation of the null."""
    cliffs_delta: float
    """Per-image effects against those of the random latents."""
    null_mean: float
    null_95: float
    """95th percentile of the null."""
    beats_directions: dict[str, bool]
    """Whether the effect is above the 95th percentile of each kind of random direction."""
    target_change: float
    other_change: float
    selectivity: float
    """target / (target + other)."""
    smallest_detectable: float
    """With 80 % power at α divided by the number of hypotheses, the strictest of the correction."""
    n_images: int
    """Test images that show the concept."""
    n_draws: int
    metric: str
    direction: str
    latents: list[int]
    sentence: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; NaN becomes null."""
        return {key: _plain(value) for key, value in asdict(self).items()}


def judge(
    evidence: dict[str, Evidence],
    latents: dict[str, list[int]],
    alpha: float,
    smallest_effect: float,
    seed: int = 0,
) -> list[Verdict]:
    """Verdicts over all hypotheses of a file, corrected together.

    A hypothesis claims that its latents were found (their fit beats fits to shuffled labels), that
    they do more than latents like them, and that they do so on image after image. It is false when
    one of these is, so its p is the largest of the three (an intersection–union test, Berger 1982).
    Supported: that p survives Benjamini–Hochberg at α, the interval lies above 0, and the effect
    exceeds the 95th percentile of both kinds of random direction. No power where p does not survive
    and neither this effect nor one of ``smallest_effect`` could have; else not supported.
    """
    rng = np.random.default_rng(seed)
    rows = [_measure(n, e, latents[n], alpha / len(evidence), rng) for n, e in evidence.items()]
    return decide(rows, alpha, smallest_effect)


def decide(rows: Sequence[Verdict], alpha: float, smallest_effect: float) -> list[Verdict]:
    """Verdicts on hypotheses that are measured already, corrected together."""
    q = benjamini_hochberg([_weakest(row)[0] for row in rows])
    return [
        _decide(replace(row, q=float(value)), alpha, smallest_effect)
        for row, value in zip(rows, q, strict=True)
    ]


def _weakest(row: Verdict) -> tuple[float, str]:
    """The largest p of a hypothesis, and what it says when it is large."""
    tests = [
        (row.p, "random latents that fire alike do as much"),
        (row.p_images, "the images do not agree"),
    ]
    if row.p_selection is not None:
        tests.append((row.p_selection, "latents fit shuffled labels as well"))
    return max(tests, key=lambda test: test[0])


def _measure(
    name: str, evidence: Evidence, latents: list[int], alpha: float, rng: np.random.Generator
) -> Verdict:
    ask, clean = evidence.question, evidence.clean
    effect = ask.effect(evidence.selected, clean)
    null_r = max_null(ask.effects(evidence.random, clean), evidence.best_of, rng)
    low, high, error = bootstrap_interval(
        lambda weights: ask.resampled(evidence.selected, clean, weights), len(clean.n_base)
    )
    per_image = ask.per_image(evidence.selected, clean)
    random_rn = ask.per_image(evidence.random, clean)
    shown = ~np.isnan(per_image)
    beats = {
        arm: bool(effect > np.quantile(ask.effects(tallies, clean), 0.95))
        for arm, tallies in evidence.directions.items()
    }
    target = replace(ask, metric="target_change").effect(evidence.selected, clean)
    other = other_change(evidence.selected, clean, ask.label, ask.groups)
    return Verdict(
        hypothesis=name,
        concept=name,
        verdict=NOT_SUPPORTED,
        effect=effect,
        interval=(low, high),
        p=float(rank_p(effect, null_r)),
        p_images=sign_flip_p(per_image[shown] - random_rn[:, shown].mean(0)),
        p_selection=evidence.p_selection,
        q=math.nan,
        effect_size=float((effect - null_r.mean()) / max(null_r.std(), 1e-12)),
        cliffs_delta=cliffs_delta(per_image, random_rn.ravel()),
        null_mean=float(null_r.mean()),
        null_95=float(np.quantile(null_r, 0.95)),
        beats_directions=beats,
        target_change=target,
        other_change=other,
        selectivity=target / (target + other) if target + other > 0 else math.nan,
        smallest_detectable=smallest_detectable(null_r, error, alpha),
        n_images=int(shown.sum()),
        n_draws=len(null_r),
        metric=ask.metric,
        direction=ask.direction,
        latents=latents,
    )


def _decide(row: Verdict, alpha: float, smallest_effect: float) -> Verdict:
    reasons = []
    seen = row.q <= alpha * (1 + ROUNDING)
    if not seen:
        p, words = _weakest(row)
        reasons.append(f"{words} (p = {p:.3f}, q = {row.q:.3f})")
    if not row.interval[0] > 0:
        reasons.append("its interval reaches 0")
    reasons += [
        f"a {arm.replace('_', ' ')} of the same length does as much"
        for arm, beaten in row.beats_directions.items()
        if not beaten
    ]
    if not reasons:
        verdict = SUPPORTED
    elif not seen and max(smallest_effect, row.effect) < row.smallest_detectable:
        verdict = NO_POWER
    else:
        verdict = NOT_SUPPORTED
    return replace(row, verdict=verdict, sentence=_sentence(row, verdict, reasons))


def _sentence(row: Verdict, verdict: str, reasons: list[str]) -> str:
    size = (
        f"{row.metric.replace('_', ' ')} {_number(row.effect)} "
        f"[{_number(row.interval[0])}, {_number(row.interval[1])}] on {row.n_images} images, "
        f"against {_number(row.null_mean)} for {row.n_draws} matched random edits"
    )
    if verdict == SUPPORTED:
        rest = f"{100 * row.other_change:.0f} % of everything else changes with it"
        return f"The hypothesis on “{row.concept}” is supported: {size}; {rest}."
    why = "; ".join(reasons)
    if verdict == NO_POWER:
        return (
            f"Nothing can be said about “{row.concept}”: {size}; {why}; only an effect above "
            f"{_number(row.smallest_detectable)} would have been seen."
        )
    return f"The hypothesis on “{row.concept}” is not supported: {size}; {why}."


def _number(value: float) -> str:
    return f"{value:.2f}"


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value
