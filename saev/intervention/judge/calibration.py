"""Calibration: hypotheses whose latents were chosen on shuffled labels, each test on its own."""

from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool

from saev.intervention.arms.arms import ArmPlan
from saev.intervention.judge.error_rates import ErrorRate, error_rates, p_values
from saev.intervention.judge.tally import Tally
from saev.intervention.judge.verdict import Criteria, Evidence, measure_effects


@dataclass(frozen=True)
class Calibration:
    """How often the tests reject on this very dictionary, head and set of images."""

    n_hypotheses: int
    """Hypotheses with latents chosen on shuffled labels."""
    n_own: int
    """Those that came upon one of the concept's own latents all the same: there the effect is true, and
    that the choice is no discovery shows in its fit alone. They are left out."""
    n_unmatched: int
    """Those without random latents to compare with, left out too."""
    rates: list[ErrorRate]
    p_values: dict[str, list[float]]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def calibrate(
    evidence: Mapping[str, Evidence],
    criteria: Criteria,
    plan: ArmPlan,
    tallies: Mapping[Hashable, Tally],
    images_of: Mapping[str, Bool[np.ndarray, " n"]],
) -> Calibration:
    """Measures every repeat as the file's own hypotheses are, against random latents and over images.

    Each control of the same length would need a length of its own:
    :mod:`saev.intervention.judge.placebo` tests those.
    """
    rng = np.random.default_rng([plan.file.seed, 4])
    rows, sets, n = [], [], len(plan.proposals)
    n_own = n_unmatched = 0
    for p in plan.proposals:
        images = np.flatnonzero(images_of[p.concept])
        for selections in plan.repeats:
            latents, _ = selections[p.column]
            matched = plan.match(latents)
            if set(latents) & {k for tried in p.tried for k in tried}:
                n_own += 1
                continue
            if criteria.apart(matched.ratios):
                n_unmatched += 1
                continue
            keys = plan.random_keys(latents, plan.owner(p))
            one = replace(
                evidence[p.concept], selected=tallies[plan.repeat_key(p, selections)].take(images),
                random=Tally.stack([tallies[key] for key in keys], images), matched=matched,
                same_length={}, untrained=None, curves=None, best_of=1, p_selection=None,
            )  # fmt: skip
            rows.append(measure_effects(p.concept, one, list(latents), criteria, n, rng))
            sets.append(str(sorted(latents)))
    tests = p_values(rows)
    return Calibration(
        len(plan.repeats) * n,
        n_own,
        n_unmatched,
        error_rates(tests, np.array(sets), criteria.alpha, n),
        {test: values.tolist() for test, values in tests.items()},
    )
