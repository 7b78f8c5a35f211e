"""Probes against scikit-learn; coalitions and curves on planted concepts."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from saev.metrics.probing import coalition, logistic_probes, probe_r


def test_probes_equal_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    values = rng.exponential(size=(3, 300)) * (rng.random((3, 300)) < 0.5)
    labels = rng.random((3, 300)) < 1 / (1 + np.exp(1 - values))
    found = logistic_probes(values, labels)
    for row in range(3):
        x, y = values[row][:, None], labels[row]
        model = LogisticRegression(C=1e6).fit(x, y)
        base = log_loss(y, np.full(300, y.mean()))
        expected = 1 - log_loss(y, model.predict_proba(x)) / base
        assert found.r[row] == pytest.approx(expected, abs=1e-3)
        assert found.slope[row] == pytest.approx(model.coef_[0, 0], rel=0.02)
    np.testing.assert_allclose(probe_r(values, labels, found), found.r, atol=1e-9)


def test_perfect_useless_and_unknown() -> None:
    label = np.arange(100) < 30
    values = np.stack([label.astype(float), np.ones(100), label.astype(float)])
    labels = np.stack([label, label, np.zeros(100, bool)])
    r = logistic_probes(values, labels).r
    assert r[0] > 0.95
    assert r[1] == pytest.approx(0, abs=1e-6)
    assert np.isnan(r[2])


def test_coalition_of_a_split_concept() -> None:
    label = np.zeros(90, bool)
    label[:30] = True
    fires = np.zeros((90, 5), bool)
    fires[:12, 1], fires[12:24, 3], fires[24:30, 4] = True, True, True
    fires[::2, 0] = True  # half of everything
    found = coalition(fires, label)
    assert found.latents == [1, 3, 4]
    assert found.f1 == pytest.approx(1.0)
    single = coalition(fires, label, max_latents=1)
    assert single.f1 == pytest.approx(2 * 12 / (12 + 30))
