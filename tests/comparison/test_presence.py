"""Absence is claimed only where it could have been refuted."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from saev.comparison.presence import (
    ConceptEvidence,
    bootstrap_auroc,
    planted_aurocs,
    planted_power,
    presence,
    rejection_level,
    thinned_auroc,
)
from saev.concepts.max_null import permutation_p
from saev.stats.correction import benjamini_hochberg


def test_bootstrap_surrounds_the_score() -> None:
    rng = np.random.default_rng(0)
    label = rng.random(300) < 0.4
    value = np.maximum(rng.standard_normal(300) + label, 0)
    draws = bootstrap_auroc(value, label, np.arange(300), 300, 300)
    exact = roc_auc_score(label, value)
    assert draws.mean() == pytest.approx(exact, abs=0.01)
    assert np.quantile(draws, 0.025) < exact < np.quantile(draws, 0.975)
    clustered = bootstrap_auroc(np.repeat(value[:10], 30), np.repeat(label[:10], 30),
                                np.arange(300) // 30, 10, 300)  # fmt: skip
    assert np.nanstd(clustered) > 3 * draws.std(), "ten images are ten, whatever their patches"


def test_draws_of_two_latents_are_of_the_same_images() -> None:
    rng = np.random.default_rng(0)
    label, value = rng.random(60) < 0.3, rng.random(60)
    one = bootstrap_auroc(value, label, np.arange(60), 60, 50, seed=3)
    keep = np.arange(60) != 5  # the second dictionary does not answer for one row
    two = bootstrap_auroc(value[keep], label[keep], np.arange(60)[keep], 60, 50, seed=3)
    assert np.corrcoef(one, two)[0, 1] > 0.9


def test_draw_without_positives_is_nan() -> None:
    label = np.array([True] + [False] * 4)
    draws = bootstrap_auroc(np.arange(5.0), label, np.arange(5), 5, 100)
    assert 0.2 < np.isnan(draws).mean() < 0.5  # (4/5)⁵ = 0.33


@pytest.mark.parametrize("n_rejected", [0, 3, 9])
def test_level_is_where_one_more_concept_becomes_significant(n_rejected: int) -> None:
    rng = np.random.default_rng(0)
    null, n_tests, fdr = rng.random(1000), 12, 0.05
    level = rejection_level(null, n_rejected, n_tests, fdr)

    def rejected(auroc: float) -> bool:
        p = np.full(n_tests, 1.0)
        p[:n_rejected] = 1e-9
        p[n_rejected] = permutation_p(np.array([auroc])[None], null[None])[0, 0]
        return bool(benjamini_hochberg(p)[n_rejected] <= fdr)

    assert rejected(level + 1e-9) and not rejected(level - 3e-6)


def test_no_level_when_permutations_are_too_few() -> None:
    assert rejection_level(np.random.default_rng(0).random(99), 0, 12, 0.05) == np.inf
    assert np.isfinite(rejection_level(np.random.default_rng(0).random(999), 0, 12, 0.05))


def test_power_counts_the_choice_and_the_test() -> None:
    discovery, test = np.array([0.9, 0.9, 0.6, np.nan]), np.array([0.9, 0.7, 0.9, 0.9])
    assert planted_power(discovery, test, rival=0.7, level=0.8) == pytest.approx(1 / 3)
    assert planted_power(discovery, test, rival=0.5, level=0.8) == pytest.approx(2 / 3)
    assert planted_power(discovery, test, rival=0.5, level=np.inf) == 0
    assert np.isnan(planted_power(discovery[3:], test[3:], 0.5, 0.8))


NAN = float("nan")


def evidence(q: float, auroc: float, power: float = NAN, least: float = NAN) -> ConceptEvidence:
    spread = np.linspace(-0.02, 0.02, 100)
    return ConceptEvidence(q, auroc + spread, power, least)


def test_absence_is_claimed_only_with_power() -> None:
    here, there = evidence(0.01, 0.95), evidence(0.5, 0.55, power=0.95)
    assert presence(here, evidence(0.01, 0.9)).verdict == "both"
    assert presence(here, there).verdict == "only_a"
    assert presence(here, there).power == 0.95
    assert presence(there, here).verdict == "only_b"
    assert presence(here, evidence(0.5, 0.55, power=0.7)).verdict == "undecided"
    assert presence(here, evidence(0.5, 0.55, power=0.7), min_power=0.6).verdict == "only_a"
    close = presence(here, ConceptEvidence(0.5, here.test[::-1].copy(), 0.95, NAN))
    assert close.verdict == "undecided", "as good a latent that happens to miss the level"
    assert close.difference[0] < 0 < close.difference[1]


def test_neither_is_claimed_only_with_power_in_both() -> None:
    sure, unsure = evidence(0.5, 0.55, least=0.9), evidence(0.5, 0.55, least=0.6)
    assert presence(sure, sure).verdict == "neither" and presence(sure, sure).power == 0.9
    for a, b in ((sure, unsure), (unsure, sure)):
        assert presence(a, b).verdict == "undecided" and presence(a, b).power == 0.6
    assert presence(sure, unsure, min_power=0.5).verdict == "neither"
    assert presence(evidence(0.06, 0.9), evidence(0.06, 0.9)).verdict == "undecided"


@pytest.mark.parametrize("n_per_image", [1, 25])
def test_planted_latents_have_the_auroc_and_the_spread_of_so_many_images(n_per_image: int) -> None:
    """All patches of an image alike: the spread is that of images, counted pair by pair."""
    of_image = np.arange(60) < 15
    label, cluster = np.repeat(of_image, n_per_image), np.repeat(np.arange(60), n_per_image)
    draws = planted_aurocs(label, cluster, 0.8, 2000)
    rng = np.random.default_rng(7)
    shift = 1.1902  # √2 · Φ⁻¹(0.8)
    values = rng.standard_normal((2000, 60)) + shift * of_image
    slow = [(row[of_image][:, None] > row[~of_image]).mean() for row in values]
    assert draws.mean() == pytest.approx(0.8, abs=0.005)
    assert draws.std() == pytest.approx(np.std(slow), rel=0.1)
    assert np.isnan(planted_aurocs(np.ones(5, bool), np.arange(5), 0.8, 3)).all()


def test_thinning_keeps_the_mean_and_widens_the_spread() -> None:
    rng = np.random.default_rng(0)
    label = np.arange(400) < 60
    value = np.maximum(rng.standard_normal(400) + label, 0)
    few, many = (thinned_auroc(value, label, n, 400, 1) for n in (3, 40))
    exact = roc_auc_score(label, value)
    assert few.mean() == pytest.approx(exact, abs=0.02)
    assert many.mean() == pytest.approx(exact, abs=0.01)
    assert few.std() > 2 * many.std()
    assert thinned_auroc(value, label, 60, 2)[0] == pytest.approx(exact)
