"""Matched latents: random ones that fire as often and as strongly as the selected ones.

One pool of drawn sets serves every hypothesis, so that a set runs through the model once; each
hypothesis takes the sets of the pool that match it best.
Suffixes: s latents, a alive ones, f features, r draws, h hypotheses.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from saev.errors import UserError
from saev.intervention.choose.code_table import LatentStats
from saev.intervention.hypothesis import FEATURES, Hypothesis
from saev.stats.correction import draws_needed


@dataclass(frozen=True)
class Matched:
    """The draws of the pool that are one hypothesis's null."""

    draws: list[int]
    """Numbers into the pool, best match first."""
    features: Float[np.ndarray, " f"]
    """Logarithms of the ``FEATURES`` of the selected latents, means over the set."""
    draw_features: Float[np.ndarray, "r f"]
    """The same of each draw."""

    @property
    def ratios(self) -> dict[str, float]:
        """Median ratio of draw to selected, per feature; 1 is a perfect match."""
        if not len(self.draws):
            return dict.fromkeys(FEATURES, math.nan)
        median_f = np.exp(np.median(self.draw_features - self.features, axis=0))
        return dict(zip(FEATURES, map(float, median_f), strict=True))


class MatchedPool:
    """Draws sets of latents matched on the logarithms of some of ``FEATURES``.

    Args:
        stats: of every latent on the discovery images.
        selected: per hypothesis its latents; sets of one pool have one size.
        n_draws: draws that each hypothesis needs.
        spare: size of a pool of sets over ``n_draws``; more gives closer matches and costs passes.
            Of single latents the pool holds the nearest ``n_draws`` of each hypothesis.
        also: latents that are matched from the same pool, with what is left of it.
        features: those of ``FEATURES`` to match on, each in units of its standard deviation.
    """

    def __init__(
        self,
        stats: LatentStats,
        selected: Sequence[Sequence[int]],
        n_draws: int,
        spare: float,
        rng: np.random.Generator,
        also: Sequence[Sequence[int]] = (),
        features: Sequence[str] = FEATURES,
    ) -> None:
        self.stats, self.selected, self.n_draws = stats, selected, n_draws
        self.features_sf = np.full((len(stats.rate), len(features)), np.nan)
        alive = stats.alive
        raw = np.log(np.stack([getattr(stats, name)[alive] for name in features], 1))
        self.features_sf[alive] = raw / np.maximum(raw.std(0), 1e-9)
        self.values_sf = np.stack([getattr(stats, name) for name in FEATURES], 1)
        self.alive = alive
        growing = _Sets(selected, int(np.ceil(n_draws * spare)), n_draws)
        if selected and len(selected[0]) == 1:
            for latents in (*selected, *also):
                for neighbour in self.near(latents[0], n_draws):
                    growing.add([neighbour])
        else:
            _add_drawn(self, growing, [*selected, *also], rng)
        self.sets = list(growing.sets)
        self.sets_rm = np.array(self.sets, dtype=np.int64)

    def near(self, latent: int, n: int) -> list[int]:
        """The ``n`` alive latents closest to one, itself left out."""
        distance = np.linalg.norm(self.features_sf[self.alive] - self.features_sf[latent], axis=1)
        order = self.alive[np.argsort(distance, kind="stable")]
        return [int(k) for k in order[: n + 1] if k != latent][:n]

    def match(self, latents: Sequence[int], n_draws: int | None = None) -> Matched:
        """The best-matching sets that share no latent with ``latents``."""
        n_draws = self.n_draws if n_draws is None else n_draws
        own_f = np.log(self.values_sf[list(latents)].mean(0))
        if not len(self.sets):
            return Matched([], own_f, np.empty((0, len(FEATURES))))
        here = self.features_sf[list(latents)].mean(0)
        distance_r = np.linalg.norm(self.features_sf[self.sets_rm].mean(1) - here, axis=1)
        distance_r[np.isin(self.sets_rm, list(latents)).any(1)] = np.inf
        order = np.argsort(distance_r, kind="stable")[:n_draws]
        draws = order[np.isfinite(distance_r[order])]
        draw_features = np.log(self.values_sf[self.sets_rm[draws]].mean(1))
        return Matched(draws.tolist(), own_f, draw_features)


class _Sets:
    """Distinct sets, until there are so many and every hypothesis has its draws.

    A hypothesis's own latents are not drawn for it; those of others are latents like any, and
    leaving them out would make the null tamer than the dictionary is.
    """

    def __init__(self, selected: Sequence[Sequence[int]], n: int, n_draws: int) -> None:
        self.sets: dict[tuple[int, ...], None] = {}
        self.own = [set(latents) for latents in selected]
        self.n, self.n_draws = n, n_draws
        self.n_usable = [0] * len(self.own)

    @property
    def enough(self) -> bool:
        return len(self.sets) >= self.n and min(self.n_usable, default=0) >= self.n_draws

    def add(self, latents: Sequence[int]) -> bool:
        """Whether the set is new."""
        key = tuple(sorted(latents))
        if key in self.sets:
            return False
        self.sets[key] = None
        self.n_usable = [
            n + own.isdisjoint(key) for n, own in zip(self.n_usable, self.own, strict=True)
        ]
        return True


def _add_drawn(
    pool: MatchedPool, sets: _Sets, selected: Sequence[Sequence[int]], rng: np.random.Generator
) -> None:
    """Sets made for each hypothesis in turn, each latent from the neighbours of a selected one."""
    if not selected:
        return
    n_near = max(24, sets.n // len(selected))  # sets of several combine: few neighbours are enough
    near: dict[int, list[int]] = {}
    n_repeats = 0
    for attempt in range(20 * sets.n):
        if sets.enough or n_repeats > 50 * len(selected) + len(pool.alive):
            return
        own = selected[attempt % len(selected)]
        wider = 1 + attempt // (2 * sets.n)  # nothing new among the nearest: look further
        drawn: list[int] = []
        for latent in own:
            if len(near.get(latent, ())) < wider * n_near:
                near[latent] = pool.near(latent, wider * n_near + len(own))
            choices = [k for k in near[latent] if k not in own and k not in drawn]
            if choices:
                drawn.append(int(rng.choice(choices[: wider * n_near])))
        n_repeats = 0 if len(drawn) == len(own) and sets.add(drawn) else n_repeats + 1


def check_draws(file: Hypothesis, n_latents: int, n_hypotheses: int, n_alive: int) -> None:
    """Before any test image: draws that could never reach α, or that the dictionary cannot give."""
    needed = draws_needed(file.alpha, n_hypotheses)
    if file.draws is not None and file.draws < needed:
        raise UserError(
            f"draws={file.draws} can never give p ≤ {file.alpha} / {n_hypotheses} after correction: "
            f"use draws={needed} or more, or null"
        )
    too_many = n_latents > n_alive  # the proposer says so
    if not too_many and math.comb(n_alive - n_latents, n_latents) < (file.draws or needed):
        raise too_few_sets(file.draws or needed, n_alive)


def too_few_sets(n_draws: int, n_alive: int) -> UserError:
    return UserError(
        f"{n_draws} matched random sets are needed and the {n_alive} alive latents of this SAE give "
        "fewer: test fewer concepts, raise alpha, or use a wider dictionary"
    )
