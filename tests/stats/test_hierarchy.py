"""Means over seeds and images: values by hand, coverage, and the price of few seeds."""

import math

import numpy as np
import pytest
from scipy import stats

from saev.stats.hierarchy import mean_over_seeds


def test_one_seed_is_a_t_test_over_images():
    values = np.random.default_rng(0).normal(0.3, 1, 40)
    found = mean_over_seeds(values[None])
    test = stats.ttest_1samp(values, 0, alternative="greater")
    assert found.p == pytest.approx(float(test.pvalue))
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_seeds_that_disagree_make_it_wide_however_many_images():
    seeds = np.array([[0.0], [0.1], [0.2]]) + np.zeros((3, 400))
    found = mean_over_seeds(seeds)
    by_seed = stats.ttest_1samp([0.0, 0.1, 0.2], 0).confidence_interval(0.95)
    assert found.mean == pytest.approx(0.1)
    assert (found.low, found.high) == pytest.approx((by_seed.low, by_seed.high))


def test_images_without_the_class_are_left_out():
    values = np.random.default_rng(0).normal(size=(3, 20))
    padded = np.column_stack([values, np.full((3, 5), np.nan)])
    assert mean_over_seeds(padded) == mean_over_seeds(values)
    assert all(math.isnan(v) for v in mean_over_seeds(np.full((3, 5), np.nan)))


def test_no_spread_at_all():
    assert mean_over_seeds(np.ones((3, 4))) == (1.0, 1.0, 1.0, 0.5**4)
    assert mean_over_seeds(np.zeros((3, 4))).p == 1.0


@pytest.mark.parametrize("ratio", [-2.0, 0.0, 0.5, 3.0, 40.0])
def test_p_and_interval_say_the_same(ratio: float):
    values = np.random.default_rng(0).normal(size=(3, 30))
    values += ratio * values.std() - values.mean()
    found = mean_over_seeds(values)
    shifted = mean_over_seeds(values - found.low)
    assert shifted.low == pytest.approx(0, abs=1e-9) and shifted.p == pytest.approx(0.025)
    assert found.p >= 0.5**30 and (found.p < 0.025) == (found.low > 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_seeds", "n_images", "seed_sd", "image_sd"),
    [(3, 100, 1.0, 1.0), (3, 100, 0.1, 1.0), (3, 30, 0.0, 1.0), (5, 100, 1.0, 1.0)],
)
def test_intervals_cover_at_few_seeds(n_seeds: int, n_images: int, seed_sd: float, image_sd: float):
    rng = np.random.default_rng(0)
    covered, rejected = [], []
    for _ in range(600):
        of_seeds = seed_sd * rng.normal(size=(n_seeds, 1))
        of_images = image_sd * rng.normal(size=n_images)
        found = mean_over_seeds(of_seeds + of_images + rng.normal(size=(n_seeds, n_images)))
        covered.append(found.low <= 0 <= found.high)
        rejected.append(found.p <= 0.05)
    assert np.mean(covered) >= 0.93
    assert np.mean(rejected) <= 0.07
