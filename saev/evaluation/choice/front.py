"""Pareto front of a sweep, and which of its members to take: pure functions on numbers."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Point(NamedTuple):
    """What a dictionary costs and what it gives."""

    l0: float
    """Latents active per token; fewer is better."""
    explained_variance: float
    """Of held-out activations; more is better."""


class Pick(NamedTuple):
    """A member that was taken."""

    index: int
    """Position among the members."""
    target_l0: float
    """The L0 that it was taken for."""
    reason: str


def eligible(point: Point) -> bool:
    """Whether a dictionary can be on the front at all: it fires, and beats the mean activation."""
    return (
        all(math.isfinite(value) for value in point)
        and point.l0 > 0
        and point.explained_variance > 0
    )


def dominates(a: Point, b: Point) -> bool:
    """Whether ``a`` is at least as good in both and better in one; a point does not dominate its twin."""
    no_worse = a.l0 <= b.l0 and a.explained_variance >= b.explained_variance
    return no_worse and a != b


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Positions of the eligible points that no other eligible point dominates, fewest latents first.

    Twins are both on the front.
    """
    candidates = [i for i, point in enumerate(points) if eligible(point)]
    front = [i for i in candidates if not any(dominates(points[j], points[i]) for j in candidates)]
    return sorted(front, key=lambda i: (points[i], i))


def pick_log_spaced(points: Sequence[Point], front: Sequence[int], n_picks: int) -> list[Pick]:
    """At most ``n_picks`` members of the front, as evenly spaced in log L0 as its members allow.

    Targets divide the range of L0 on the front into equal factors. The two ends are always taken;
    each target in between, from the lowest, takes the nearest member in log L0 that is still free.
    Twins count once: the first of them stands for all.

    Raises:
        ValueError: ``n_picks`` is below 1.
    """
    if n_picks < 1:
        raise ValueError(f"n_picks must be at least 1, got {n_picks}.")
    distinct = [i for n, i in enumerate(front) if points[i] not in [points[j] for j in front[:n]]]
    if not distinct:
        return []
    if len(distinct) <= n_picks:
        return [Pick(i, points[i].l0, _reason(points, distinct, i, None)) for i in distinct]
    if n_picks == 1:
        middle = math.sqrt(points[distinct[0]].l0 * points[distinct[-1]].l0)
        index = _nearest(points, distinct, middle)
        return [Pick(index, middle, _reason(points, distinct, index, middle))]
    low, high = points[distinct[0]].l0, points[distinct[-1]].l0
    targets = [low * (high / low) ** (step / (n_picks - 1)) for step in range(n_picks)]
    taken: dict[int, float] = {distinct[0]: low, distinct[-1]: high}
    for target in targets[1:-1]:
        free = [i for i in distinct if i not in taken]
        taken[_nearest(points, free, target)] = target
    ends = (distinct[0], distinct[-1])
    return [
        Pick(i, taken[i], _reason(points, distinct, i, None if i in ends else taken[i]))
        for i in sorted(taken, key=lambda i: points[i])
    ]


def _nearest(points: Sequence[Point], among: Sequence[int], target: float) -> int:
    return min(among, key=lambda i: (abs(math.log(points[i].l0 / target)), points[i].l0))


def _reason(points: Sequence[Point], front: Sequence[int], index: int, target: float | None) -> str:
    point = points[index]
    place = []
    if len(front) == 1:
        place.append("the only member on the front")
    elif index == front[0]:
        place.append("the fewest active latents on the front")
    elif index == front[-1]:
        place.append("the highest explained variance on the front")
    if target is not None:
        place.append(
            f"nearest in log L0 to {target:.3g}, one of the targets that divide "
            f"{points[front[0]].l0:.3g} to {points[front[-1]].l0:.3g} into equal factors"
        )
    elif len(front) > 1 and index not in (front[0], front[-1]):
        place.append("the front has no more members than picks were asked for")
    return (
        f"L0 {point.l0:.3g}, explained variance {point.explained_variance:.3f}: "
        f"{'; '.join(place)}; no member explains more with as few latents."
    )
