"""Regression-adjusted effects: values by hand, and the rate of rejection at the edge."""

import numpy as np
import pytest

from saev.stats.adjustment import regression_adjusted
from saev.stats.tests import rank_p

LATENTS, DRAWS = 3000, 139


def test_what_is_linear_in_the_features_leaves_nothing():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 3))
    effect = 2 + features @ [1.0, -2.0, 0.5]
    noisy = effect + rng.normal(size=40)
    plain = regression_adjusted(noisy[0] + 3, features[0], noisy[1:], features[1:])
    moved = regression_adjusted(
        noisy[0] + 3 + 5 * features[0, 1],
        features[0],
        noisy[1:] + 5 * features[1:, 1],
        features[1:],
    )
    np.testing.assert_allclose(moved.null, plain.null, atol=0.15)  # the ridge keeps 0.1 % of 5
    assert moved.observed == pytest.approx(plain.observed, abs=0.15)
    assert plain.observed > 1.5


def test_units_of_features_and_effects_do_not_matter():
    rng = np.random.default_rng(1)
    features, effect = rng.normal(size=(30, 2)), rng.normal(size=30)
    one = regression_adjusted(effect[0], features[0], effect[1:], features[1:])
    scaled = features * [1000.0, 1e-3] + [5.0, -7.0]
    other = regression_adjusted(10 * effect[0] + 3, scaled[0], 10 * effect[1:] + 3, scaled[1:])
    np.testing.assert_allclose(other.null, 10 * one.null, atol=1e-6)


def test_residuals_are_predictions_from_all_other_effects():
    """Without spread to model (|residual| all equal) they are those of leaving one out by hand."""
    feature = np.array([-1.0, -1.0, 1.0, 1.0] * 6)
    effect = feature + np.array([0.5, -0.5, 0.5, -0.5] * 6)
    adjusted = regression_adjusted(effect[0], feature[:1], effect[1:], feature[1:, None])
    others = np.polyfit(feature[1:], effect[1:], 1)
    design = np.column_stack([np.ones(24), feature])
    leverage = design[0] @ np.linalg.inv(design.T @ design) @ design[0]
    by_hand = (effect[0] - np.polyval(others, feature[0])) * np.sqrt(1 - leverage)
    assert adjusted.observed == pytest.approx(by_hand, rel=0.02)


def test_equal_effects_and_constant_features_leave_residuals_of_zero():
    adjusted = regression_adjusted(0.0, np.ones(2), np.zeros(9), np.ones((9, 2)))
    assert adjusted.observed == 0 and not adjusted.null.any()
    assert rank_p(*adjusted) == 1.0


def test_what_cannot_be_adjusted_is_said():
    with pytest.raises(ValueError, match="5 draws; 6 are needed"):
        regression_adjusted(0.0, np.zeros(3), np.zeros(5), np.zeros((5, 3)))
    with pytest.raises(ValueError, match="not finite"):
        regression_adjusted(0.0, np.array([-np.inf]), np.zeros(9), np.zeros((9, 1)))
    unknown = regression_adjusted(np.nan, np.zeros(1), np.zeros(9), np.zeros((9, 1)))
    assert np.isnan(rank_p(*unknown))


def nearest_at_the_edge(rng: np.random.Generator) -> np.ndarray:
    """Logs of rate, mean and dose: one of the 60 latents of largest dose, then its nearest 139."""
    common = rng.normal(size=LATENTS)
    rate = common + rng.normal(size=LATENTS)
    mean = 0.4 * common + 0.3 * rng.normal(size=LATENTS)
    dose = mean + 0.25 * common + 0.25 * np.abs(rng.normal(size=LATENTS))
    features = np.column_stack([rate, mean, dose - dose.mean()])
    chosen = features[rng.choice(np.argsort(dose)[-60:])]
    distance = np.square((features - chosen) / features.std(0)).sum(1)
    return features[np.argsort(distance)[: DRAWS + 1]]


EFFECTS = {
    "even": lambda d, rng: 0.15 * d + 0.05 * rng.normal(size=len(d)),
    "heavy tails": lambda d, rng: 0.15 * d + 0.05 * rng.standard_t(3, len(d)),
    "spread grows": lambda d, rng: 0.15 * d + 0.05 * rng.standard_t(3, len(d)) * np.exp(d),
    "spread falls": lambda d, rng: 0.15 * d + 0.05 * rng.standard_t(3, len(d)) * np.exp(-d),
    "skewed": lambda d, rng: 0.02 * np.exp(1.5 * d) * rng.exponential(size=len(d)),
}


def rejection_rates(kind: str, n_worlds: int) -> tuple[float, float]:
    """Share of worlds with p ≤ 0.05: of the plain rank, and of adjusted effects."""
    rng = np.random.default_rng(0)
    plain, adjusted = [], []
    for _ in range(n_worlds):
        features = nearest_at_the_edge(rng)
        effect = EFFECTS[kind](features[:, 2], rng)
        plain.append(rank_p(effect[0], effect[1:]))
        residuals = regression_adjusted(effect[0], features[0], effect[1:], features[1:])
        adjusted.append(rank_p(*residuals))
    return float(np.mean(np.array(plain) <= 0.05)), float(np.mean(np.array(adjusted) <= 0.05))


@pytest.mark.slow
@pytest.mark.parametrize("kind", EFFECTS)
def test_at_the_edge_adjusted_effects_reject_at_alpha_and_plain_ones_do_not(kind: str):
    plain, adjusted = rejection_rates(kind, 2000)
    assert plain > 0.08, "the worlds are no hard ones"
    assert 0.03 <= adjusted <= 0.07
