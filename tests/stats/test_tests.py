"""Statistics: values by hand, and the laws they must obey under the null."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saev.stats.bootstrap import bootstrap_interval, image_weights, interval, weighted_auroc
from saev.stats.correction import benjamini_hochberg, draws_needed, images_needed
from saev.stats.tests import (
    N_FLIPS,
    cliffs_delta,
    dose_response,
    max_null,
    rank_p,
    sign_flip_p,
    smallest_detectable,
)
from tests.fakes.uniform_p import tie_broken_p, uniformity_p


def test_rank_p_by_hand():
    null = np.array([0.1, 0.2, 0.3, 0.4])
    assert rank_p(0.35, null) == 2 / 5
    assert rank_p(0.4, null) == 2 / 5  # ties count against
    assert rank_p(1.0, null) == 1 / 5
    assert rank_p(0.0, null) == 1.0


def test_rank_p_of_several_at_once_and_with_rounding():
    null = np.array([0.4, 0.1, 0.3, 0.2])
    np.testing.assert_array_equal(rank_p(np.array([[0.35], [0.4 + 1e-9]]), null), [[0.4], [0.2]])
    assert rank_p(0.4 + 1e-9, null, rounding=1e-6) == 2 / 5
    np.testing.assert_array_equal(rank_p(np.array([np.nan, 1.0]), null), [np.nan, 0.2])
    assert np.isnan(rank_p(1.0, np.array([0.5, np.nan])))


def test_fifty_draws_never_reach_one_in_fifty():
    assert rank_p(math.inf, np.zeros(50)) > 0.019


@given(st.sampled_from([0.001, 0.01, 0.05, 0.1, 0.2]), st.integers(1, 300))
def test_draws_needed_are_enough_and_no_more(alpha, n):
    draws = draws_needed(alpha, n)
    assert 1 / (draws + 1) <= alpha / n * (1 + 1e-12)
    assert 1 / draws > alpha / n if draws else True
    images = images_needed(alpha, n)
    assert 0.5**images <= alpha / n < 0.5 ** (images - 1)


def test_rank_p_is_uniform_under_the_null():
    rng = np.random.default_rng(0)
    p = np.array([rank_p(rng.normal(), rng.normal(size=199)) for _ in range(400)])
    assert uniformity_p(p) > 0.01
    assert uniformity_p(p**2) < 1e-6


def test_ties_do_not_spoil_uniformity_where_they_are_broken():
    rng = np.random.default_rng(0)
    kept, broken = [], []
    for _ in range(400):
        observed, null = float(rng.poisson(0.5)), rng.poisson(0.5, 199).astype(float)
        kept.append(rank_p(observed, null))
        broken.append(tie_broken_p(observed, null, rng))
    assert uniformity_p(np.array(broken)) > 0.01
    assert uniformity_p(np.array(kept)) < 1e-6 and np.mean(np.array(kept) <= 0.05) <= 0.06


def test_the_best_of_many_needs_the_maximum_as_null():
    rng = np.random.default_rng(0)
    naive, corrected = [], []
    for _ in range(200):
        best, null = rng.normal(size=8).max(), rng.normal(size=199)
        naive.append(rank_p(best, null))
        corrected.append(rank_p(best, max_null(null, 8, rng)))
    assert np.mean(np.array(naive) <= 0.05) > 0.2
    assert np.mean(np.array(corrected) <= 0.05) < 0.1
    null = rng.normal(size=5)
    assert max_null(null, 1, rng) is null


def test_benjamini_hochberg_by_hand():
    np.testing.assert_allclose(benjamini_hochberg([0.01, 0.04, 0.03]), [0.03, 0.04, 0.04])
    assert len(benjamini_hochberg([])) == 0


def test_sign_flips_are_exact_for_few_images():
    assert sign_flip_p(np.array([1.0, 2.0, 3.0])) == 1 / 8
    assert sign_flip_p(np.array([1.0, np.nan, 2.0, 3.0])) == 1 / 8
    assert sign_flip_p(np.array([-1.0, -2.0])) == 1.0
    assert sign_flip_p(np.zeros(9)) == 1.0
    assert sign_flip_p(np.array([np.nan])) == 1.0


def test_a_lone_true_hypothesis_among_a_thousand_can_be_supported():
    """All others have p = 1: only the number of flips limits it."""
    differences = np.linspace(0.5, 1.0, 30)
    few, enough = (
        benjamini_hochberg([sign_flip_p(differences, n_flips=n)] + [1.0] * 999)[0]
        for n in (N_FLIPS, max(N_FLIPS, draws_needed(0.05, 1000)))
    )
    assert enough <= 0.05 < few


def test_more_flips_need_no_more_memory_and_say_the_same():
    differences = np.random.default_rng(0).normal(0.1, 1, 400)
    assert sign_flip_p(differences, n_flips=11_999) == pytest.approx(
        sign_flip_p(differences), abs=0.01
    )


def test_sign_flips_are_one_sided_and_uniform():
    rng = np.random.default_rng(0)
    p = np.array([sign_flip_p(rng.normal(size=10)) for _ in range(150)])
    assert uniformity_p(p) > 0.01


def test_bootstrap_covers_the_mean():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(100):
        values = rng.normal(1.0, 1.0, 60)
        low, high, error = bootstrap_interval(lambda w, v=values: w @ v / 60, 60, seed=trial)
        covered += low <= 1.0 <= high
        assert error == pytest.approx(1 / math.sqrt(60), rel=0.5)
    assert 85 <= covered <= 100


def test_weights_are_images_drawn_with_replacement():
    weights = image_weights(7, 400, np.random.default_rng(0))
    assert weights.shape == (400, 7) and (weights.sum(1) == 7).all()
    assert weights.mean(0) == pytest.approx(np.ones(7), abs=0.2)
    assert (weights == 0).mean() == pytest.approx((6 / 7) ** 7, abs=0.03)


def test_interval_leaves_unknown_draws_out():
    drawn = np.append(np.linspace(0, 1, 201), [np.nan] * 9)
    assert interval(drawn) == pytest.approx((0.025, 0.975))
    assert all(math.isnan(v) for v in interval(np.full(3, np.nan)))


def test_weighted_auroc_of_nothing_is_unknown():
    nothing = weighted_auroc(np.zeros(0), np.zeros(0, bool), np.zeros((3, 0)))
    assert nothing.shape == (3,) and np.isnan(nothing).all()


def test_bootstrap_without_any_effect():
    assert all(math.isnan(v) for v in bootstrap_interval(lambda w: np.full(len(w), np.nan), 5))


def test_cliffs_delta():
    one, other = np.array([3.0, 4.0]), np.array([1.0, 2.0, 3.5])
    assert cliffs_delta(one, other) == pytest.approx((5 - 1) / 6)
    assert cliffs_delta(one, one) == 0.0
    assert cliffs_delta(np.ones(3), np.ones(4)) == 0.0
    assert math.isnan(cliffs_delta(np.array([np.nan]), one))


def test_smallest_detectable_grows_with_noise_and_null():
    null = np.linspace(0, 1, 101)
    assert smallest_detectable(null, 0.0, 0.05) == pytest.approx(0.95)
    assert smallest_detectable(null, 0.1, 0.05) == pytest.approx(0.95 + 0.0842, abs=1e-3)


def test_dose_response():
    assert dose_response([0.0, -1.0, -2.0, -4.0], [0.0, 0.2, 0.5, 0.9]) == pytest.approx(1.0)
    assert math.isnan(dose_response([0.0, -1.0], [0.0, 1.0]))
    assert math.isnan(dose_response([0.0, -1.0, -2.0], [0.3, 0.3, 0.3]))
