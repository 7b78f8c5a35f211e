"""Partners are found, the mis-paired control is not fooled, absence needs power."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from saev.latents.matching import bootstrap_auroc, jaccard, match, presence
from saev.metrics.concept_scores import Codes


def sparse_codes(dense: np.ndarray) -> Codes:
    latent, row = dense.T.nonzero()
    return Codes(latent, row, dense[row, latent].astype(np.float32), dense.shape[1], len(dense))


def random_codes(n_rows: int, n_latents: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.exponential(size=(n_rows, n_latents)) * (rng.random((n_rows, n_latents)) < 0.2)


def test_shuffled_latents_are_matched_back_and_noise_is_not() -> None:
    dense = random_codes(200, 12, 0)
    order = np.random.default_rng(1).permutation(8)
    noise = random_codes(200, 4, 2)
    other = np.hstack([2 * dense[:, order], noise])  # the last four latents have no partner
    found = match(sparse_codes(dense), sparse_codes(other), n_draws=80)
    assert order[found.partner[:8]].tolist() == list(range(8))
    assert found.correlation[:8] == pytest.approx(1)
    assert found.mutual[:8].all()
    assert (found.q[:8] <= 0.05).all()
    assert (found.q[8:] > 0.05).all()
    assert (found.correlation[8:] < found.null[8:] * 1.4).all()


def test_correlation_is_pearsons() -> None:
    one, two = random_codes(50, 3, 0), random_codes(50, 5, 1)
    found = match(sparse_codes(one), sparse_codes(two), n_draws=2)
    exact = np.corrcoef(one.T, two.T)[:3, 3:]
    np.testing.assert_allclose(found.correlation, exact.max(1), atol=1e-6)
    np.testing.assert_array_equal(found.partner, exact.argmax(1))


def test_dead_latents_have_no_partner_and_are_none() -> None:
    one, two = random_codes(50, 3, 0), random_codes(50, 3, 1)
    one[:, 1], two[:, 2] = 0, 0
    found = match(sparse_codes(one), sparse_codes(two), n_draws=2)
    assert found.partner[1] == -1 and np.isnan(found.correlation[1])
    assert 2 not in found.partner


def test_different_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="same rows"):
        match(sparse_codes(random_codes(5, 2, 0)), sparse_codes(random_codes(6, 2, 0)))


def test_overlap_by_hand() -> None:
    assert jaccard([1, 2, 3], [2, 3, 4]) == 0.5
    assert np.isnan(jaccard([], []))


def test_bootstrap_surrounds_the_score() -> None:
    rng = np.random.default_rng(0)
    label = rng.random(300) < 0.4
    value = np.maximum(rng.standard_normal(300) + label, 0)
    draws = bootstrap_auroc(value, label, np.arange(300), 300)
    exact = roc_auc_score(label, value)
    assert draws.mean() == pytest.approx(exact, abs=0.01)
    assert np.quantile(draws, 0.025) < exact < np.quantile(draws, 0.975)
    wide = bootstrap_auroc(value, label, np.arange(300) // 30, 300)
    assert len(wide) and wide.std() < 0.2


def test_absence_is_claimed_only_with_power() -> None:
    good, bad = np.full(100, 0.95), np.full(100, 0.55)
    assert presence(0.01, 0.01, good, good, 0.8, 0.8).verdict == "both"
    assert presence(0.5, 0.5, bad, bad, 0.8, 0.8).verdict == "neither"
    assert presence(0.01, 0.5, good, bad, 0.8, 0.8) == ("only_a", 1.0)
    assert presence(0.5, 0.01, bad, good, 0.8, 0.8) == ("only_b", 1.0)
    assert presence(0.01, 0.5, good, bad, 0.8, 0.97).verdict == "undecided", "no power"
    assert presence(0.01, 0.5, good, np.full(100, 0.96), 0.8, 0.8).verdict == "undecided"
