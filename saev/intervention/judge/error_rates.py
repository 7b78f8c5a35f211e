"""Error rates: how often each test rejects where there is nothing to find.

Suffix: n hypotheses.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped

from saev.intervention.judge.verdict import Verdict
from saev.stats.shares import clustered_share

TOLERANCE = 1.6
"""A test may reject in α times so many cases, 8 % at α = 5 %, before its run is marked."""


@dataclass(frozen=True)
class ErrorRate:
    """How often one test rejects. Shares, not per cent."""

    test: str
    n: int
    """Hypotheses."""
    n_latents: int
    """Different sets of latents among them: those of one set are not independent."""
    share: float
    """With p ≤ α."""
    interval: tuple[float, float]
    """95 %, bootstrap over sets of latents."""
    share_corrected: float
    """With p ≤ α / h, the level that a lone true hypothesis among h has to reach."""
    interval_corrected: tuple[float, float]

    def exceeds(self, alpha: float) -> bool:
        """Whether the test errs more often than α allows."""
        return self.share > TOLERANCE * alpha


def p_values(rows: Sequence[Verdict]) -> dict[str, Float[np.ndarray, " n"]]:
    """The p of every test that hypotheses were given, without the p of the choice: labels that were
    shuffled make that one uniform by construction."""
    found = {
        "random_latents": [row.p for row in rows],
        "images": [row.p_images for row in rows],
    }
    for arm in rows[0].p_same_length if rows else ():
        found[arm] = [row.p_same_length[arm] for row in rows]
    for name in ("learned", "selective"):
        if rows and name in rows[0].rungs:
            found[name] = [row.rungs[name].p for row in rows]
    return {test: np.array(values, float) for test, values in found.items()}


def error_rates(
    tests: Mapping[str, Float[np.ndarray, " n"]],
    latents: Shaped[np.ndarray, " n"],
    alpha: float,
    n_hypotheses: int,
) -> list[ErrorRate]:
    """Of each test by its p-values; ``latents`` numbers the sets of latents."""
    rates = []
    for test, p_n in tests.items():
        known = ~np.isnan(p_n)
        at = [clustered_share(p_n[known] <= level * (1 + 1e-9), latents[known])
              for level in (alpha, alpha / n_hypotheses)]  # fmt: skip
        (share, *between), (corrected, *between_corrected) = at
        rates.append(
            ErrorRate(
                test, int(known.sum()), len(set(latents[known].tolist())),
                float(share), (between[0], between[1]), float(corrected),
                (between_corrected[0], between_corrected[1]),
            )
        )  # fmt: skip
    return rates


def exceeded(rates: Sequence[ErrorRate], alpha: float) -> list[str]:
    """Names of the tests that err too often."""
    return [rate.test for rate in rates if not math.isnan(rate.share) and rate.exceeds(alpha)]
