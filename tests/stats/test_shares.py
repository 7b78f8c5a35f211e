"""Shares with intervals: values by hand, and how often they cover."""

import math

import numpy as np
import pytest
from scipy import stats

from saev.stats.shares import binomial_interval, clustered_share


def test_the_exact_interval():
    assert binomial_interval(0, 20) == pytest.approx((0.0, 0.0, 1 - 0.025 ** (1 / 20)))
    assert binomial_interval(20, 20) == pytest.approx((1.0, 0.025 ** (1 / 20), 1.0))
    slow = stats.binomtest(3, 40).proportion_ci(method="exact")
    assert binomial_interval(3, 40) == pytest.approx((3 / 40, slow.low, slow.high))
    assert all(math.isnan(v) for v in binomial_interval(0, 0))


def test_trials_of_one_cluster_count_once():
    """Sixty hypotheses of twelve latents that go together say what twelve of them do."""
    hit = np.repeat(np.arange(12) < 3, 5)
    found = clustered_share(hit, np.repeat(np.arange(12), 5))
    alone = clustered_share(hit, np.arange(60))
    twelve = binomial_interval(3, 12)
    assert found.share == alone.share == 0.25
    assert found.low < alone.low and alone.high < found.high
    assert (found.low, found.high) == pytest.approx((twelve.low, twelve.high), abs=0.06)
    assert (alone.low, alone.high) == pytest.approx(binomial_interval(15, 60)[1:], abs=0.01)


def test_where_all_agree_the_interval_is_exact_for_the_clusters():
    clusters = np.repeat(np.arange(20), 5)
    assert clustered_share(np.zeros(100, bool), clusters) == binomial_interval(0, 20)
    assert clustered_share(np.ones(100, bool), clusters) == binomial_interval(20, 20)
    one = clustered_share(np.array([True, False]), np.array([7, 7]))
    assert one.share == 0.5 and one.high - one.low > 0.9


def test_nothing_has_no_share():
    assert all(math.isnan(v) for v in clustered_share(np.zeros(0, bool), np.zeros(0, int)))


@pytest.mark.parametrize(("share", "missed"), [(0.05, 0.08), (0.2, 0.04)])
def test_it_covers_on_both_sides_with_clusters_of_unequal_size(share: float, missed: float):
    rng = np.random.default_rng(0)
    below, above = [], []
    for _ in range(400):
        cluster = np.repeat(np.arange(80), rng.integers(1, 6, 80))
        found = clustered_share((rng.random(80) < share)[cluster], cluster)
        below.append(share < found.low)
        above.append(share > found.high)
    assert np.mean(below) <= 0.03 and np.mean(above) <= missed
