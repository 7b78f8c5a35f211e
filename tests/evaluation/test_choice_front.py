"""The front and the picks, on sets small enough to see the answer."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saev.evaluation.choice.front import Point, dominates, eligible, pareto_front, pick_log_spaced

SWEEP = [
    Point(16, 0.70), Point(8, 0.55), Point(32, 0.69), Point(64, 0.90), Point(4, 0.40), Point(64, 0.85)
]  # fmt: skip


def test_front_of_a_known_set() -> None:
    # 32 explains less than 16 does, and the second 64 less than the first
    assert pareto_front(SWEEP) == [4, 1, 0, 3]


def test_twins_are_both_on_the_front_and_picked_once() -> None:
    points = [Point(8, 0.5), Point(8, 0.5), Point(16, 0.6)]
    assert pareto_front(points) == [0, 1, 2]
    assert [pick.index for pick in pick_log_spaced(points, [0, 1, 2], 3)] == [0, 2]


def test_of_equal_l0_or_equal_variance_the_better_one_stays() -> None:
    assert pareto_front([Point(8, 0.5), Point(8, 0.6)]) == [1]
    assert pareto_front([Point(8, 0.5), Point(9, 0.5)]) == [0]


def test_a_single_member_is_the_front_and_the_pick() -> None:
    (pick,) = pick_log_spaced([Point(8, 0.5)], pareto_front([Point(8, 0.5)]), 3)
    assert pick.index == 0
    assert "only member" in pick.reason


def test_nothing_silent_undefined_or_below_the_mean_is_on_the_front() -> None:
    points = [
        Point(0, 0.0),
        Point(4, -0.1),
        Point(4, math.nan),
        Point(math.inf, 0.9),
        Point(8, 0.3),
    ]
    assert pareto_front(points) == [4]
    assert pareto_front(points[:4]) == []
    assert pick_log_spaced(points, [], 3) == []


def test_picks_are_the_ends_and_the_nearest_to_equal_factors_between() -> None:
    points = [Point(l0, 0.1 + l0 / 1000) for l0 in (4, 5, 6, 15, 18, 60, 64)]
    picks = pick_log_spaced(points, pareto_front(points), 3)
    assert [pick.index for pick in picks] == [0, 3, 6]  # √(4·64) = 16; 15 is nearer in log than 18
    assert picks[1].target_l0 == pytest.approx(16)
    assert "fewest active latents" in picks[0].reason
    assert "16" in picks[1].reason
    assert "highest explained variance" in picks[2].reason


def test_one_pick_is_the_middle_of_the_front_in_log_l0() -> None:
    points = [Point(l0, 0.1 + l0 / 1000) for l0 in (2, 8, 30, 32)]
    assert [pick.index for pick in pick_log_spaced(points, pareto_front(points), 1)] == [1]


def test_crowded_fronts_take_each_member_once() -> None:
    points = [Point(l0, 0.1 + l0 / 1000) for l0 in (10, 11, 12, 13, 1000)]
    picks = pick_log_spaced(points, pareto_front(points), 4)
    assert [pick.index for pick in picks] == [0, 2, 3, 4]


def test_as_many_picks_as_the_front_has() -> None:
    front = pareto_front(SWEEP)
    assert [pick.index for pick in pick_log_spaced(SWEEP, front, 10)] == front


def test_no_picks_are_refused() -> None:
    with pytest.raises(ValueError, match="n_picks must be at least 1, got 0"):
        pick_log_spaced(SWEEP, pareto_front(SWEEP), 0)


members = st.lists(
    st.builds(Point, st.integers(0, 6).map(float), st.integers(-1, 5).map(lambda n: n / 5)),
    max_size=12,
)


@given(members, st.integers(1, 5))
def test_laws(points: list[Point], n_picks: int) -> None:
    front = pareto_front(points)
    for i, point in enumerate(points):
        beaten = any(dominates(other, point) for other in points if eligible(other))
        assert (i in front) == (eligible(point) and not beaten)
    ordered = [points[i] for i in front]
    assert ordered == sorted(ordered)
    assert [p.explained_variance for p in ordered] == sorted(p.explained_variance for p in ordered)
    picks = pick_log_spaced(points, front, n_picks)
    taken = [pick.index for pick in picks]
    assert set(taken) <= set(front) and len(set(taken)) == len(taken)
    assert len(taken) == min(n_picks, len(set(ordered)))
    if n_picks > 1 and front:
        assert points[taken[0]] == ordered[0] and points[taken[-1]] == ordered[-1]
