"""Verdict on each hypothesis, from the effects of its arms.

Suffixes: r draws, n images, h hypotheses.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from saev.intervention.arms.matched_latents import Matched
from saev.intervention.judge.dose_curves import Curves, TradeoffRow, tradeoff_rows
from saev.intervention.judge.rungs import (
    EFFECT,
    LEARNED,
    SELECTIVE,
    Rung,
    highest_rung,
    learned_rung,
    selective_rung,
)
from saev.intervention.judge.tally import Clean, Question, Tally, other_change
from saev.pages.site import plain
from saev.stats.adjustment import regression_adjusted
from saev.stats.bootstrap import N_BOOTSTRAP, bootstrap_interval, image_weights
from saev.stats.correction import ROUNDING, benjamini_hochberg, draws_needed
from saev.stats.tests import (
    N_FLIPS,
    cliffs_delta,
    max_null,
    rank_p,
    sign_flip_p,
    smallest_detectable,
)

SUPPORTED, NOT_SUPPORTED, NO_POWER, NO_MATCH = (
    "supported", "not_supported", "no_power", "no_match"
)  # fmt: skip
VERDICTS = (SUPPORTED, NOT_SUPPORTED, NO_POWER, NO_MATCH)


@dataclass(frozen=True)
class Criteria:
    """What a verdict is held to, from the hypothesis file."""

    alpha: float
    smallest_effect: float
    max_ratio: float = 1.5
    """Of the random latents' edits to the selected ones', in any of ``SIZES``."""

    def apart(self, match: Mapping[str, float]) -> dict[str, float]:
        """The sizes in which random edits are too unlike the selected one, by what factor."""
        factors = {name: max(ratio, 1 / ratio) for name, ratio in match.items()}
        return {name: x for name, x in factors.items() if not x <= self.max_ratio}


@dataclass(frozen=True)
class Evidence:
    """The effects of one hypothesis's arms, on its own test images."""

    question: Question
    clean: Clean
    selected: Tally
    random: Tally
    """Matched random latents, a stack of draws."""
    matched: Matched
    """How like the selected latents they are."""
    same_length: dict[str, Tally] = field(default_factory=dict)
    """Random latents and random directions as long as the selected edit, a stack of draws each."""
    untrained: Tally | None = None
    """Latents chosen alike in untrained dictionaries, at the same length, a stack."""
    curves: Curves | None = None
    best_of: int = 1
    p_selection: float | None = None
    """Of the latents' fit to the concept on the discovery images; None where none was asked for."""


@dataclass(frozen=True)
class Verdict:
    """What ``verdict.json`` says of one hypothesis. Shares, not per cent."""

    hypothesis: str
    concept: str
    verdict: str
    """Of the rung "effect"."""
    rungs: dict[str, Rung]
    effect: float
    interval: tuple[float, float]
    """95 %, bootstrap over images."""
    p: float
    """Rank of the effect among random latents of the same dose."""
    p_images: float
    """Paired over images: the effect above that of the strongest α of the random latents (sign flips)."""
    p_selection: float | None
    """Rank of the latents' fit to the concept's labels among the best fits to shuffled labels."""
    p_same_length: dict[str, float]
    """Rank of the effect among each control of the same length."""
    q: float
    """The largest of the first three after Benjamini–Hochberg over the hypotheses of the file."""
    match: dict[str, float]
    """Median ratio of the random latents' edits to this one: rate (share of tokens changed), mean
    (length) and dose (amount in codes)."""
    effect_size: float
    """(effect − mean of the null) / standard deviation of the null."""
    cliffs_delta: float
    """Per-image effects against those of the random latents."""
    null_mean: float
    null_95: float
    """95th percentile of the null."""
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
    tradeoff: list[TradeoffRow] = field(default_factory=list)
    error_rates_exceeded: list[str] = field(default_factory=list)
    """Tests that reject placebo latents more often than their bound on this model."""
    sentence: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; what is not finite becomes null."""
        return {key: plain(value) for key, value in asdict(self).items()}

    @property
    def rung(self) -> str | None:
        """The highest rung that holds with all below it."""
        return highest_rung({name: rung.holds for name, rung in self.rungs.items()})


def judge(
    evidence: dict[str, Evidence], latents: dict[str, list[int]], criteria: Criteria, seed: int = 0
) -> list[Verdict]:
    """Verdicts over all hypotheses of a file, corrected together.

    The rung "effect" claims that the latents were found (their fit beats fits to shuffled labels),
    that they do more than latents like them, and that they do so on image after image. It is false
    when one of these is, so its p is the largest of the three (an intersection–union test, Berger
    1982). Supported: that p survives Benjamini–Hochberg at α, the interval lies above 0, and the
    effect is in the upper α of each control of the same length. No match where random latents like
    the selected ones are not to be had; no power where random latents do as much and neither this
    effect nor one of ``smallest_effect`` could have stood out; else not supported. The other rungs are
    corrected each for itself.
    """
    rng = np.random.default_rng(seed)
    n = len(evidence)
    rows = [
        measure_effects(name, e, latents[name], criteria, n, rng) for name, e in evidence.items()
    ]
    return decide(rows, criteria)


def decide(rows: Sequence[Verdict], criteria: Criteria) -> list[Verdict]:
    """Verdicts on hypotheses that are measured already, corrected together."""
    alpha = criteria.alpha * (1 + ROUNDING)
    rungs: list[dict[str, Rung]] = [{} for _ in rows]
    for name in (LEARNED, SELECTIVE):
        there = [k for k, row in enumerate(rows) if name in row.rungs]
        q = benjamini_hochberg([rows[k].rungs[name].p for k in there])
        for k, value in zip(there, q, strict=True):
            found = rows[k].rungs[name]
            low, high = found.interval
            clear = low > 0 if name == LEARNED else high < 0
            holds = bool(value <= alpha and clear)
            rungs[k][name] = replace(found, q=float(value), holds=holds)
    q = benjamini_hochberg([_weakest(row)[0] for row in rows])
    return [
        _decide(replace(row, q=float(value), rungs=found), criteria)
        for row, value, found in zip(rows, q, rungs, strict=True)
    ]


def _tests(row: Verdict) -> list[tuple[float, str]]:
    """Every p that the rung "effect" needs, and what it says when it is large."""
    tests = [
        (row.p, "random latents of the same dose do as much"),
        (row.p_images, "not on image after image more than the strongest random latents"),
    ]
    if row.p_selection is not None:
        tests.append((row.p_selection, "latents fit shuffled labels as well"))
    return tests


def _weakest(row: Verdict) -> tuple[float, str]:
    return max(_tests(row), key=lambda test: test[0])


def measure_effects(
    name: str, evidence: Evidence, latents: list[int], criteria: Criteria, n_hypotheses: int,
    rng: np.random.Generator,
) -> Verdict:  # fmt: skip
    """Effects and p-values of one of ``n_hypotheses``, before the correction that decides."""
    ask, clean = evidence.question, evidence.clean
    needed = draws_needed(criteria.alpha, n_hypotheses)
    effect = ask.effect(evidence.selected, clean)
    effects_r = ask.effects(evidence.random, clean)
    null_r = max_null(effects_r, evidence.best_of, rng)
    low, high, error = bootstrap_interval(
        lambda weights: ask.resampled(evidence.selected, clean, weights), len(clean.n_base)
    )
    per_image = ask.per_image(evidence.selected, clean)
    random_rn = ask.per_image(evidence.random, clean)
    shown = ~np.isnan(per_image)
    strongest = effects_r >= np.quantile(effects_r, 1 - criteria.alpha)
    target = replace(ask, metric="target_change").effect(evidence.selected, clean)
    other = other_change(evidence.selected, clean, ask.label, ask.groups)
    weights_rn = image_weights(
        len(clean.n_base), max(N_BOOTSTRAP, needed), np.random.default_rng(0)
    )
    weights_rn = np.vstack([np.ones(len(clean.n_base)), weights_rn])
    return Verdict(
        hypothesis=name,
        concept=name,
        verdict=NOT_SUPPORTED,
        rungs=_upper_rungs(evidence, weights_rn, max(N_FLIPS, needed)),
        effect=effect,
        interval=(low, high),
        p=_matched_p(effect, effects_r, evidence, rng),
        p_images=sign_flip_p(
            per_image[shown] - random_rn[strongest][:, shown].mean(0), n_flips=max(N_FLIPS, needed)
        ),
        p_selection=evidence.p_selection,
        p_same_length={
            arm: float(rank_p(effect, ask.effects(tallies, clean)))
            for arm, tallies in evidence.same_length.items()
        },
        q=math.nan,
        match=evidence.matched.ratios,
        effect_size=float((effect - null_r.mean()) / max(null_r.std(), 1e-12)),
        cliffs_delta=cliffs_delta(per_image, random_rn.ravel()),
        null_mean=float(null_r.mean()),
        null_95=float(np.quantile(null_r, 0.95)),
        target_change=target,
        other_change=other,
        selectivity=target / (target + other) if target + other > 0 else math.nan,
        smallest_detectable=smallest_detectable(null_r, error, criteria.alpha / n_hypotheses),
        n_images=int(shown.sum()),
        n_draws=len(null_r),
        metric=ask.metric,
        direction=ask.direction,
        latents=latents,
        tradeoff=[]
        if evidence.curves is None
        else tradeoff_rows(ask, clean, evidence.curves, weights_rn[: N_BOOTSTRAP + 1]),
    )


def _matched_p(
    effect: float, effects_r: np.ndarray, evidence: Evidence, rng: np.random.Generator
) -> float:
    """Rank among the random latents; where these only fire alike, of what their features leave."""
    matched = evidence.matched
    if matched.given_dose:
        return float(rank_p(effect, max_null(effects_r, evidence.best_of, rng)))
    adjusted = regression_adjusted(effect, matched.sizes, effects_r, matched.draw_sizes)
    return float(rank_p(adjusted.observed, max_null(adjusted.null, evidence.best_of, rng)))


def _upper_rungs(evidence: Evidence, weights_rn: np.ndarray, n_flips: int) -> dict[str, Rung]:
    ask, clean, found = evidence.question, evidence.clean, {}
    if evidence.untrained is not None:
        found[LEARNED] = learned_rung(
            ask,
            clean,
            evidence.selected,
            evidence.untrained,
            weights_rn[: N_BOOTSTRAP + 1],
            n_flips,
        )
    if evidence.curves is not None:
        found[SELECTIVE] = selective_rung(ask, clean, evidence.curves, weights_rn)
    return found


def _decide(row: Verdict, criteria: Criteria) -> Verdict:
    alpha = criteria.alpha * (1 + ROUNDING)
    reasons = []
    seen = row.q <= alpha
    if not seen:
        large = [test for test in _tests(row) if test[0] > alpha] or [_weakest(row)]
        reasons += [f"{words} (p = {p:.3f})" for p, words in large]
        reasons[-1] += f", q = {row.q:.3f}"
    if not row.interval[0] > 0:
        reasons.append("its interval reaches 0")
    reasons += [
        f"a {CONTROLS[arm]} of the same length does as much (p = {p:.2f})"
        for arm, p in row.p_same_length.items()
        if not p <= alpha
    ]
    apart = [
        f"in {SIZE_WORDS[name]} by a median factor of {_number(factor)}"
        for name, factor in criteria.apart(row.match).items()
    ]
    if apart:
        verdict, reasons = NO_MATCH, [f"their edits differ from this one {' and '.join(apart)}"]
    elif not reasons:
        verdict = SUPPORTED
    elif row.p > alpha and max(criteria.smallest_effect, row.effect) < row.smallest_detectable:
        verdict = NO_POWER
    else:
        verdict = NOT_SUPPORTED
    p = _weakest(row)[0]
    effect = Rung(verdict == SUPPORTED, row.effect, row.interval, p, row.q)
    row = replace(row, verdict=verdict, rungs={EFFECT: effect, **row.rungs})
    return replace(row, sentence=_sentence(row, verdict, reasons))


CONTROLS = {
    "random_latents_same_length": "random latent",
    "random_direction": "random direction",
    "covariance_direction": "direction in which the data varies",
}
SIZE_WORDS = {
    "rate": "the share of tokens changed",
    "mean": "mean length",
    "dose": "dose",
}


def _sentence(row: Verdict, verdict: str, reasons: list[str]) -> str:
    size = (
        f"{row.metric.replace('_', ' ')} {_number(row.effect)} "
        f"[{_number(row.interval[0])}, {_number(row.interval[1])}] on {row.n_images} images, "
        f"against {_number(row.null_mean)} for {row.n_draws} sets of random latents"
    )
    if verdict == SUPPORTED:
        rest = f"{100 * row.other_change:.0f} % of everything else changes with it"
        return f"The hypothesis on “{row.concept}” is supported: {size}; {rest}{_rung_words(row)}."
    why = "; ".join(reasons)
    if verdict == NO_POWER:
        return (
            f"Nothing can be said about “{row.concept}”: {size}; {why}; only an effect above "
            f"{_number(row.smallest_detectable)} would have been seen."
        )
    if verdict == NO_MATCH:
        return (
            f"Nothing can be said about “{row.concept}”: {size}, but {why}; a wider dictionary, or "
            "latents that are less extreme, may give a closer match."
        )
    return f"The hypothesis on “{row.concept}” is not supported: {size}; {why}."


def _rung_words(row: Verdict) -> str:
    """What the rungs above the first add."""
    words = {
        LEARNED: ("training taught it", "untrained dictionaries do as well"),
        SELECTIVE: (
            "it changes less of the rest than DiffMean and a probe do",
            "DiffMean or a probe changes no more of the rest",
        ),
    }
    return "".join(
        f"; {words[name][not row.rungs[name].holds]}" for name in words if name in row.rungs
    )


def _number(value: float) -> str:
    return f"{value:.2f}"
