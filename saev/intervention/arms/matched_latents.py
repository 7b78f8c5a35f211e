"""Random latents to compare the selected ones with, edited by as much.

Where an edit sets codes to a multiple of the largest, its dose is given: any latents will do, and
random ones take the dose of the selected. Where it changes codes as they are (ablates, scales), the
dose is how often and how strongly a latent fires, and random latents are drawn that fire alike. One
pool of sets serves every hypothesis, so that equal edits run through the model once.
Suffixes: s latents, a alive ones, f features, r draws.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from saev.editing.edits import parse_edit
from saev.errors import UserError
from saev.intervention.choose.code_table import LatentStats
from saev.intervention.hypothesis import MIN_DRAWS, Hypothesis
from saev.stats.correction import draws_needed

SPARE = 4
"""Sets of several latents in a matched pool, over the draws needed: more match closer."""
STEP = 1.1
"""Between doses that random latents are given: hypotheses of nearly one dose share their draws."""


def rounded_dose(largest: Float[np.ndarray, " m"]) -> float:
    """The dose that random latents take in place of their own largest codes: the root mean square of
    the selected ones', rounded up to a power of ``STEP``, so that no random latent gets less."""
    dose = float(np.sqrt(np.square(largest).mean()))
    return STEP ** math.ceil(math.log(dose) / math.log(STEP) - 1e-9)


@dataclass(frozen=True)
class Matched:
    """The draws of the pool that are one hypothesis's null."""

    draws: list[int]
    """Numbers into the pool."""
    sizes: Float[np.ndarray, " f"]
    """Logarithms of ``SIZES`` of the selected latents' edit."""
    draw_sizes: Float[np.ndarray, "r f"]
    """The same of each draw's edit."""
    given_dose: bool
    """Whether the draws were given the selected latents' dose; else they only fire alike."""

    @property
    def ratios(self) -> dict[str, float]:
        """Median ratio of draw to selected, per size; 1 is a perfect match."""
        median_f = np.exp(np.median(self.draw_sizes - self.sizes, axis=0))
        return dict(zip(SIZES, map(float, median_f), strict=True))


SIZES = ("rate", "mean", "dose")
"""Of an edit: share of the tokens that it changes, mean length of the change where it does, and dose:
the amount in codes; where codes change as they are, rate, mean and largest code of the latents."""


class RandomPool(ABC):
    """Sets of alive latents."""

    def __init__(self, alive: np.ndarray) -> None:
        self.alive = alive
        self.sets: list[tuple[int, ...]] = []

    @abstractmethod
    def draws(self, latents: Sequence[int], n_draws: int) -> list[int]:
        """Numbers of up to ``n_draws`` sets that share no latent with ``latents``."""


class UniformPool(RandomPool):
    """Sets drawn from all alive latents alike, the same ones for every hypothesis.

    Args:
        stats: of every latent on the discovery images.
        selected: latents that a null is needed for, those of one hypothesis each.
        n_draws: sets that each of them needs.
    """

    def __init__(
        self, stats: LatentStats, selected: Sequence[Sequence[int]], n_draws: int,
        rng: np.random.Generator,
    ) -> None:  # fmt: skip
        super().__init__(stats.alive)
        n = len(selected[0])
        own = [set(latents) for latents in selected]
        usable, found = [0] * len(own), {}
        for _ in range(50 * n_draws + 50 * len(self.alive)):
            if min(usable) >= n_draws or n > len(self.alive):
                break
            drawn = tuple(sorted(rng.choice(self.alive, n, replace=False).tolist()))
            if drawn in found:
                continue
            found[drawn] = None
            usable = [k + one.isdisjoint(drawn) for k, one in zip(usable, own, strict=True)]
        self.sets = list(found)

    def draws(self, latents: Sequence[int], n_draws: int) -> list[int]:
        own = set(latents)
        return [r for r, drawn in enumerate(self.sets) if own.isdisjoint(drawn)][:n_draws]


class AlikePool(RandomPool):
    """Sets matched on the logarithms of firing rate, mean and largest code.

    Args:
        stats: of every latent on the discovery images.
        selected: per hypothesis its latents; sets of one pool have one size. Of single latents the
            pool holds the nearest ``n_draws`` of each.
        n_draws: draws that each hypothesis needs.
    """

    def __init__(
        self, stats: LatentStats, selected: Sequence[Sequence[int]], n_draws: int,
        rng: np.random.Generator,
    ) -> None:  # fmt: skip
        super().__init__(stats.alive)
        raw = log_features(stats, stats.alive)
        self.features_sf = np.full((len(stats.rate), raw.shape[1]), np.nan)
        self.features_sf[self.alive] = raw / np.maximum(raw.std(0), 1e-9)
        growing = _Sets(selected, SPARE * n_draws, n_draws)
        if len(selected[0]) == 1:
            for latents in selected:
                for neighbour in self.near(latents[0], n_draws):
                    growing.add([neighbour])
        else:
            _add_drawn(self, growing, [*selected], rng)
        self.sets = list(growing.sets)
        self.sets_rm = np.array(self.sets, dtype=np.int64)

    def near(self, latent: int, n: int) -> list[int]:
        """The ``n`` alive latents closest to one, itself left out."""
        distance = np.linalg.norm(self.features_sf[self.alive] - self.features_sf[latent], axis=1)
        order = self.alive[np.argsort(distance, kind="stable")]
        return [int(k) for k in order[: n + 1] if k != latent][:n]

    def draws(self, latents: Sequence[int], n_draws: int) -> list[int]:
        if not self.sets:
            return []
        here = self.features_sf[list(latents)].mean(0)
        distance_r = np.linalg.norm(self.features_sf[self.sets_rm].mean(1) - here, axis=1)
        distance_r[np.isin(self.sets_rm, list(latents)).any(1)] = np.inf
        order = np.argsort(distance_r, kind="stable")[:n_draws]
        return order[np.isfinite(distance_r[order])].tolist()


def log_features(stats: LatentStats, latents: np.ndarray) -> Float[np.ndarray, "m f"]:
    """Logarithms of firing rate, mean code where it fires, and largest code."""
    return np.log(np.stack([stats.rate[latents], stats.mean[latents], stats.largest[latents]], -1))


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
    pool: AlikePool, sets: _Sets, selected: Sequence[Sequence[int]], rng: np.random.Generator
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
    if (
        file.draws is not None
        and file.draws < MIN_DRAWS
        and not parse_edit(file.edit, (0,)).has_unit
    ):
        raise UserError(
            f"draws={file.draws} is too few for edit.kind={file.edit.get('kind')}: what random "
            f"latents' rates explain of their effects is estimated from them; use {MIN_DRAWS}"
        )
    too_many = n_latents > n_alive  # the proposer says so
    if not too_many and math.comb(n_alive - n_latents, n_latents) < (file.draws or needed):
        raise too_few_sets(file.draws or needed, n_alive)


def too_few_sets(n_draws: int, n_alive: int) -> UserError:
    return UserError(
        f"{n_draws} matched random sets are needed and the {n_alive} alive latents of this SAE give "
        "fewer: test fewer concepts, raise alpha, or use a wider dictionary"
    )
