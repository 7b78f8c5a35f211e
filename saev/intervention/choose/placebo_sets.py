"""Placebo latents: sets that nobody chose, most of them from around the selected ones."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from saev.intervention.arms.matched_latents import AlikePool

SHARE_AROUND = 0.75
"""Of the sets that are drawn around selected ones, which often lie at the edge of the dictionary, where
tests err first; the rest is drawn from all alive latents."""
N_NEAR = 24
"""Neighbours of a selected latent of which a set of several takes one."""
FEWEST_SETS = 40
"""Different sets, where there are so many hypotheses: shares of fewer have intervals of no use."""
N_TRIES = 20
"""For each set: those drawn at random may come twice."""


def placebo_sets(
    pool: AlikePool, selected: Sequence[Sequence[int]], n: int, rng: np.random.Generator
) -> list[tuple[int, ...]]:
    """Up to ``n`` different sets of as many latents as the selected ones have, none of them selected.

    Around each selected set in turn: the nearest latents in rate, mean code and dose that were not
    taken yet; of sets of several, for each latent one of its neighbours. Fewer where the dictionary
    has no more.
    """
    taken = {latent for latents in selected for latent in latents}
    free = [int(k) for k in pool.alive if int(k) not in taken]
    size = len(selected[0])
    n = min(n, math.comb(len(free), size))
    around = _around(pool, selected, set(free), rng)
    found: dict[tuple[int, ...], None] = {}
    for _ in range(N_TRIES * n):
        if len(found) == n:
            break
        drawn = None
        if len(found) % 4 < 4 * SHARE_AROUND:
            drawn = next(around, None)
        if drawn is None:
            drawn = rng.choice(free, size, replace=False).tolist()
        found[tuple(sorted(drawn))] = None
    return list(found)


def _around(
    pool: AlikePool, selected: Sequence[Sequence[int]], free: set[int], rng: np.random.Generator
) -> Iterator[list[int]]:
    """Sets from around each of the selected ones in turn; single latents come nearest first."""
    every = len(pool.alive)
    if len(selected[0]) == 1:
        near = [[k for k in pool.near(latents[0], every) if k in free] for latents in selected]
        for rank in range(max(map(len, near), default=0)):
            yield from ([one[rank]] for one in near if rank < len(one))
        return
    near_of = {
        latent: [k for k in pool.near(latent, every) if k in free][:N_NEAR]
        for latents in selected
        for latent in latents
    }
    while True:
        for latents in selected:
            drawn: list[int] = []
            for latent in latents:
                choices = [k for k in near_of[latent] if k not in drawn]
                if choices:
                    drawn.append(int(rng.choice(choices)))
            if len(drawn) < len(latents):
                return
            yield drawn


def turns(n_hypotheses: int, n_sets: int, n_concepts: int) -> list[list[int]]:
    """Per set the concepts that it is tested on, each as often as any other."""
    each = min(n_concepts, -(-n_hypotheses // n_sets))
    return [[(k * each + j) % n_concepts for j in range(each)] for k in range(n_sets)]


def sets_needed(n_hypotheses: int, n_concepts: int) -> int:
    """Sets for so many hypotheses."""
    return max(-(-n_hypotheses // n_concepts), min(n_hypotheses, FEWEST_SETS))
