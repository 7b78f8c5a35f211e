"""Scores of foreignness."""

import numpy as np
import pytest
from scipy.special import logsumexp, softmax
from sklearn.metrics import roc_auc_score

from saev.metrics.ood import code_surprise, energy, knn, mahalanobis, msp, separation


def test_separation_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    known, foreign = rng.integers(0, 9, 80) / 9.0, rng.integers(3, 12, 60) / 9.0
    found = separation(known, foreign)
    label = np.r_[np.zeros(80), np.ones(60)]
    assert found.auroc == pytest.approx(roc_auc_score(label, np.r_[known, foreign]))
    found = separation(np.arange(100.0), np.arange(100.0) + 1000)
    assert found == (1.0, 0.0)


def test_logit_scores() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 4)) * 50
    np.testing.assert_allclose(msp(logits), -softmax(logits, axis=1).max(1))
    np.testing.assert_allclose(energy(logits), -logsumexp(logits, axis=1))


def test_distances_find_what_is_far_away() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 200)
    known = rng.normal(size=(200, 5)) + 6 + 6 * label[:, None]
    near, far = (
        rng.normal(size=(30, 5)) + 6,
        rng.normal(size=(30, 5)) + np.array([20, -20, 0, 0, 0]),
    )
    for score in (
        lambda x: mahalanobis(known, label, x),
        lambda x: knn(known, x),
    ):
        assert separation(score(near), score(far)).auroc > 0.95


def test_rarely_used_latents_are_a_surprise() -> None:
    known = np.zeros((50, 3))
    known[:40, 0], known[:2, 1] = 1.0, 1.0
    judged = np.array([[1.0, 0, 0], [1.0, 1.0, 0], [0, 0, 1.0], [0, 0, 0]])
    score = code_surprise(known, judged)
    assert (np.diff(score) >= 0).all() and score[0] < score[1] < score[2]
