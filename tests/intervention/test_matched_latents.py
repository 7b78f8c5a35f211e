"""Random latents: of one dose, or ones that fire alike."""

import numpy as np
import pytest

from saev.intervention.arms.matched_latents import (
    STEP,
    AlikePool,
    UniformPool,
    log_features,
    rounded_dose,
)
from saev.intervention.choose.code_table import LatentStats

S = 400


@pytest.fixture(scope="module")
def stats() -> LatentStats:
    rng = np.random.default_rng(0)
    rate = np.exp(rng.normal(-5, 1, S))
    rate[:10] = 0.0
    mean = np.where(rate > 0, np.exp(rng.normal(0, 0.5, S)), 0.0)
    return LatentStats(rate, mean, 3 * mean)


def pool(kind, stats: LatentStats, selected, n_draws=40, seed=0):
    return kind(stats, selected, n_draws, np.random.default_rng(seed))


@pytest.mark.parametrize("n", [1, 3])
def test_matches_are_closer_than_chance(stats, n):
    order = np.argsort(stats.rate)
    rare, common = tuple(order[20 : 20 + n].tolist()), tuple(order[-n:].tolist())
    drawn = pool(AlikePool, stats, [rare, common], n_draws=15)
    anyone = np.random.default_rng(1).choice(stats.alive, (500, n))
    for latents in (rare, common):
        draws = drawn.draws(latents, 15)
        assert len(draws) == 15
        here = log_features(stats, np.array(latents)).mean(0)

        def apart(sets, here=here) -> float:
            features = [log_features(stats, np.array(one)).mean(0) for one in sets]
            return float(np.median(np.linalg.norm(np.array(features) - here, axis=1)))

        assert apart([drawn.sets[r] for r in draws]) < apart(anyone) / 2


@pytest.mark.parametrize("kind", [UniformPool, AlikePool])
def test_no_draw_is_dead_or_the_hypothesis_own(kind, stats):
    selected = [(100, 101), (200, 201), (300, 301)]
    drawn = pool(kind, stats, selected)
    assert not {latent for latents in drawn.sets for latent in latents} & set(range(10))
    for own in selected:
        assert not any(set(drawn.sets[r]) & set(own) for r in drawn.draws(own, 40))


@pytest.mark.parametrize("kind", [UniformPool, AlikePool])
def test_sets_are_distinct_and_reproducible(kind, stats):
    one, two = pool(kind, stats, [(100, 101)]), pool(kind, stats, [(100, 101)])
    assert one.sets == two.sets and len(set(one.sets)) == len(one.sets) >= 40
    assert pool(kind, stats, [(100, 101)], seed=1).sets != one.sets


@pytest.mark.parametrize("kind", [UniformPool, AlikePool])
@pytest.mark.parametrize("n", [1, 10])
def test_every_hypothesis_has_its_draws_beside_its_own_latents(kind, stats, n):
    selected = [tuple(range(20 + 30 * k, 20 + 30 * k + n)) for k in range(4)]
    drawn = pool(kind, stats, selected, n_draws=60)
    assert [len(drawn.draws(own, 60)) for own in selected] == [60] * 4


def test_uniform_draws_are_uniform_and_shared(stats):
    drawn = pool(UniformPool, stats, [(100,), (200,)], n_draws=300)
    one, two = drawn.draws((100,), 300), drawn.draws((200,), 300)
    assert len(set(one) & set(two)) >= 298
    rates = np.log(stats.rate[[drawn.sets[r][0] for r in one]])
    everyone = np.log(stats.rate[stats.alive])
    assert abs(rates.mean() - everyone.mean()) < 0.15 * everyone.std()


def test_single_latents_are_matched_as_closely_as_can_be_however_many_hypotheses(stats):
    selected = [(k,) for k in range(20, 60)]
    drawn = pool(AlikePool, stats, selected, n_draws=30)
    for own in selected:
        assert {drawn.sets[r][0] for r in drawn.draws(own, 30)} == set(drawn.near(own[0], 30))


@pytest.mark.parametrize("kind, n_found", [(AlikePool, 19), (UniformPool, 20)])
def test_a_small_dictionary_gives_what_it_has(kind, n_found, stats):
    few = LatentStats(stats.rate[:30], stats.mean[:30], stats.largest[:30])
    drawn = pool(kind, few, [(15,)], n_draws=100)
    assert len(drawn.sets) == n_found  # 20 alive, one its own
    assert len(drawn.draws((15,), 100)) == 19


def test_doses_are_rounded_up_by_less_than_a_step():
    for largest in ([1.0], [0.3, 4.0], [7.7, 7.7, 1e-3]):
        exact = float(np.sqrt(np.square(largest).mean()))
        assert exact * (1 - 1e-6) <= rounded_dose(np.array(largest)) < exact * STEP * (1 + 1e-6)
    assert rounded_dose(np.array([1.0])) == rounded_dose(np.array([0.95]))
