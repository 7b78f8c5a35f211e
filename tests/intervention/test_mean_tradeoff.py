"""The mean trade-off over hypotheses, against means taken one by one."""

import math

import numpy as np
import pytest

from saev.intervention.judge.dose_curves import LEVELS, Curves, other_changes
from saev.intervention.judge.mean_tradeoff import (
    HypothesisCurves,
    mean_paths,
    mean_tradeoff,
    tradeoff_paths,
)
from saev.intervention.judge.tally import Clean, Groups, Question, Tally
from saev.stats.bootstrap import image_weights

GROUPS = Groups(((0, 3),))
N_TEST, N_UNITS = 24, 40.0
DOSES = (0.5, 1.0, 2.0)
TARGETS = np.array([0.3, 0.6, 0.9])


def curves(
    price: dict[str, float], images: np.ndarray, seed: int = 0, reach: float = 1.0
) -> HypothesisCurves:
    """Arms that change up to 0.9 of class 0 (times ``reach`` for the selected latents), and so much of
    the rest for it, more on some images than on others."""
    rng = np.random.default_rng(seed)
    n = np.full((len(images), 3), N_UNITS)
    zero = np.zeros_like(n)
    spread_n = rng.uniform(0.5, 1.5, len(images))

    def edited(target: float, other: float) -> Tally:
        changed = N_UNITS * np.stack([target + zero[:, 0], *[other * spread_n] * 2], 1)
        return Tally(changed, changed, zero, zero, n - changed, n - changed, zero)

    arms = {}
    for arm, slope in price.items():
        targets = TARGETS * (reach if arm == "selected" else 1)
        arms[arm] = Tally.stack([edited(t, slope * t) for t in targets], np.arange(len(images)))
    ask = Question(0, "target_change", "decrease", GROUPS, ())
    clean = Clean(Tally(zero, zero, zero, zero, n, n, zero), n, n, n, 3 * n)
    return HypothesisCurves(ask, clean, Curves(DOSES, arms), images)


def row_of(found, arm: str, level: float):
    return next(row for row in found if (row.arm, row.level) == (arm, level))


SOME, OTHERS = np.arange(16), np.arange(8, N_TEST)


def test_as_means_taken_one_by_one():
    one = curves({"selected": 0.1, "diffmean": 0.3}, SOME, 1)
    two = curves({"selected": 0.2, "diffmean": 0.25}, OTHERS, 2)
    found = mean_tradeoff([one, two], N_TEST, n_draws=25, seed=3)
    assert {(row.arm, row.level) for row in found} == {
        (arm, level) for arm in ("selected", "diffmean") for level in LEVELS
    }
    weights = image_weights(N_TEST, 25, np.random.default_rng(3))
    for level in LEVELS:
        means, apart = [], []
        for weight in (np.ones(N_TEST), *weights):
            own, rival = (
                [
                    float(
                        other_changes(
                            h.question, h.clean, h.curves.arms[arm], weight[None, h.images], level
                        )[0]
                    )
                    for h in (one, two)
                ]
                for arm in ("selected", "diffmean")
            )
            means.append(sum(rival) / 2)
            apart.append(sum(a - b for a, b in zip(own, rival, strict=True)) / 2)
        row = row_of(found, "diffmean", level)
        assert (row.n_concepts, row.n_missing, row.n_pairs) == (2, 0, 2)
        assert row.other_change == pytest.approx(means[0])
        assert row.interval == pytest.approx(tuple(np.quantile(means[1:], [0.025, 0.975])))
        assert row.difference == pytest.approx(apart[0])
        assert row.difference_interval == pytest.approx(
            tuple(np.quantile(apart[1:], [0.025, 0.975]))
        )
    assert math.isnan(row_of(found, "selected", 0.5).difference)


def test_hypotheses_that_share_images_are_not_independent():
    """A hypothesis told three times is no more certain than told once."""
    one = curves({"selected": 0.1, "diffmean": 0.3}, SOME)
    once, thrice = (mean_tradeoff([one] * k, N_TEST, n_draws=100) for k in (1, 3))
    for a, b in zip(once, thrice, strict=True):
        assert a.interval == pytest.approx(b.interval)
        assert a.interval[0] < a.other_change < a.interval[1]


def test_an_arm_that_never_gets_there_is_counted_and_left_out():
    far = curves({"selected": 0.1, "diffmean": 0.3}, SOME)
    short = curves({"selected": 0.1, "diffmean": 0.3}, SOME, reach=0.5)  # up to 0.45
    row = row_of(mean_tradeoff([far, short], N_TEST, 50), "selected", 0.5)
    assert (row.n_concepts, row.n_missing) == (1, 1)
    alone = row_of(mean_tradeoff([far], N_TEST, 50), "selected", 0.5)
    assert row.other_change == pytest.approx(alone.other_change)
    rival = row_of(mean_tradeoff([far, short], N_TEST, 50), "diffmean", 0.5)
    assert (rival.n_concepts, rival.n_pairs) == (2, 1)
    assert rival.difference == pytest.approx(alone.other_change - rival.other_change)
    nowhere = row_of(mean_tradeoff([short], N_TEST, 50), "selected", 0.75)
    assert nowhere.n_concepts == 0 and math.isnan(nowhere.other_change)


def test_paths_by_hand():
    one = curves({"selected": 0.1}, np.arange(4))
    spread = np.random.default_rng(0).uniform(0.5, 1.5, 4).mean()
    [path] = tradeoff_paths(one).values()
    np.testing.assert_allclose(path.target_k, TARGETS)
    np.testing.assert_allclose(path.other_k, 0.1 * TARGETS * spread)
    two = curves({"selected": 0.1}, np.arange(4), reach=0.5)
    [mean] = mean_paths([one, two]).values()
    np.testing.assert_allclose(mean.target_k, 0.75 * TARGETS)
