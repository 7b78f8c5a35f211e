"""Trade-off curves: read exactly, under every weighting."""

import math
from itertools import pairwise

import numpy as np
import pytest

from saev.stats.bootstrap import image_weights
from saev.stats.tradeoff import other_at_target

ONES = np.ones((1, 2))
UNITS = np.array([10.0, 10.0])


def read(target, other, level, units=UNITS, weights=ONES):
    """At doses whose hits are the same on both images."""
    twice = np.ones((1, 2))
    hits = [np.array(values, float)[:, None] * twice for values in (target, other)]
    return other_at_target(hits[0], units, hits[1], units, weights, level)


def test_a_straight_line_is_read_exactly():
    for level in (0.1, 0.25, 0.5, 0.75, 1.0):
        assert read([2, 5, 10], [1, 2.5, 5], level) == pytest.approx(level / 2)


def test_between_doses_and_at_a_dose():
    assert read([2, 6], [0, 4], 0.1) == pytest.approx(0.0)
    assert read([2, 6], [0, 4], 0.2) == pytest.approx(0.0)
    assert read([2, 6], [0, 4], 0.4) == pytest.approx(0.2)
    assert read([2, 6], [0, 4], 0.6) == pytest.approx(0.4)


def test_a_level_that_is_never_reached_costs_everything():
    assert read([2, 6], [0, 4], 0.61)[0] == math.inf
    assert read([0, 0], [0, 4], 0.25)[0] == math.inf


def test_the_first_crossing_counts_on_a_path_that_turns_back():
    assert read([6, 2, 8], [3, 5, 9], 0.4) == pytest.approx(0.2)
    assert read([6, 2, 8], [3, 5, 9], 0.7) == pytest.approx(0.5 + 5 / 6 * 0.4)


def test_doses_that_do_the_same_are_no_obstacle():
    assert read([0, 4, 4, 8], [1, 2, 3, 4], 0.4) == pytest.approx(0.2)
    assert read([4, 4, 8], [2, 3, 3], 0.6) == pytest.approx(0.3)


def test_units_count_and_images_with_nan_do_not():
    target, other = np.array([[1.0, 9.0, 5.0]]), np.array([[0.0, 4.0, np.nan]])
    units = np.array([2.0, 18.0, 10.0])
    weights = np.array([[1.0, 1.0, 1.0], [3.0, 0.0, 9.0], [0.0, 0.0, 1.0]])
    found = other_at_target(target, units, other, units, weights, 0.5)
    np.testing.assert_allclose(found, [4 / 20, 0.0, np.nan])


def test_it_is_nan_without_units_on_either_side():
    hits, none = np.full((1, 2), 5.0), np.zeros(2)
    assert np.isnan(other_at_target(hits, UNITS, hits, none, ONES, 0.25)).all()
    assert np.isnan(other_at_target(hits, none, hits, UNITS, ONES, 0.25)).all()


@pytest.mark.parametrize("level", [0.0, -0.1, 1.5, math.nan])
def test_a_level_is_a_share(level: float):
    with pytest.raises(ValueError, match="level is"):
        read([1], [1], level)


def test_all_weightings_at_once_are_the_slow_reading_of_each():
    rng = np.random.default_rng(0)
    units, others = rng.integers(1, 9, 30).astype(float), rng.integers(20, 90, 30).astype(float)
    target = np.floor(units * np.array([0.2, 0.5, 0.4, 0.9])[:, None] * rng.random((4, 30)) * 1.5)
    other = np.floor(others * rng.random((4, 30)) * 0.5)
    weights = image_weights(30, 200, rng)
    fast = other_at_target(target, units, other, others, weights, 0.3)
    for weight, found in zip(weights, fast, strict=True):
        path = [(0.0, 0.0)]
        path += [
            (weight @ t / (weight @ units), weight @ o / (weight @ others))
            for t, o in zip(target, other, strict=True)
        ]
        slow = math.inf
        for (t0, o0), (t1, o1) in pairwise(path):
            if t1 >= 0.3:
                slow = o0 + (0.3 - t0) / (t1 - t0) * (o1 - o0)
                break
        assert found == pytest.approx(slow)
