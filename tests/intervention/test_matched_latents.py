"""Random latents that fire alike."""

import numpy as np
import pytest

from saev.intervention.arms.matched_latents import FEATURES, MatchedPool
from saev.intervention.choose.code_table import LatentStats

S = 400


@pytest.fixture(scope="module")
def stats() -> LatentStats:
    rng = np.random.default_rng(0)
    rate = np.exp(rng.normal(-5, 1, S))
    rate[:10] = 0.0
    mean = np.where(rate > 0, np.exp(rng.normal(0, 0.5, S)), 0.0)
    return LatentStats(rate, mean, 3 * mean)


def pool(stats: LatentStats, selected, n_draws=40, spare=2.0, seed=0) -> MatchedPool:
    return MatchedPool(stats, selected, n_draws, spare, np.random.default_rng(seed))


@pytest.mark.parametrize("n", [1, 3])
def test_matches_are_closer_than_chance(stats, n):
    order = np.argsort(stats.rate)
    rare, common = tuple(order[20 : 20 + n].tolist()), tuple(order[-n:].tolist())
    drawn = pool(stats, [rare, common])
    anyone = np.random.default_rng(1).choice(stats.alive, (500, n))
    for latents in (rare, common):
        match = drawn.match(latents)
        assert len(match.draws) == 40
        here = np.log(stats.rate[list(latents)].mean())
        by_chance = np.exp(np.median(np.abs(np.log(stats.rate[anyone].mean(1)) - here)))
        spread = np.median(np.abs(match.draw_features[:, 0] - match.features[0]))
        assert np.exp(spread) < by_chance / 2


def test_no_draw_is_dead_or_the_hypothesis_own(stats):
    selected = [(100, 101), (200, 201), (300, 301)]
    drawn = pool(stats, selected)
    assert not {latent for latents in drawn.sets for latent in latents} & set(range(10))
    for own in selected:
        assert not any(set(drawn.sets[r]) & set(own) for r in drawn.match(own).draws)
    for latents in drawn.sets[:5]:
        assert drawn.sets.index(latents) not in drawn.match(latents).draws


def test_sets_are_distinct_and_reproducible(stats):
    one, two = pool(stats, [(100, 101)]), pool(stats, [(100, 101)])
    assert one.sets == two.sets and len(set(one.sets)) == len(one.sets) == 80
    assert pool(stats, [(100, 101)], seed=1).sets != one.sets


@pytest.mark.parametrize("n", [1, 10])
def test_every_hypothesis_has_its_draws_beside_its_own_latents(stats, n):
    selected = [tuple(range(20 + 30 * k, 20 + 30 * k + n)) for k in range(4)]
    drawn = pool(stats, selected, n_draws=60, spare=1.0)
    assert [len(drawn.match(own).draws) for own in selected] == [60] * 4


def test_single_latents_are_matched_as_closely_as_can_be(stats):
    drawn = pool(stats, [(100,), (200,)], spare=3.0)
    for own in (100, 200):
        assert {drawn.sets[r][0] for r in drawn.match([own]).draws} == set(drawn.near(own, 40))


def test_single_latents_of_many_hypotheses_have_their_nearest_all_the_same(stats):
    selected = [(k,) for k in range(20, 60)]
    drawn = pool(stats, selected, n_draws=30)
    for own in selected:
        assert {drawn.sets[r][0] for r in drawn.match(own).draws} == set(drawn.near(own[0], 30))


def test_ratios_say_which_way_random_latents_differ(stats):
    order = np.argsort(stats.rate)
    rare, common = (int(order[10]),), (int(order[-1]),)
    drawn = pool(stats, [rare, common], n_draws=100)
    assert drawn.match(rare).ratios["rate"] > 1.2
    assert drawn.match(common).ratios["rate"] < 0.8


def test_matching_on_the_largest_code_too_brings_it_closer(stats):
    rng = np.random.default_rng(1)
    uneven = LatentStats(stats.rate, stats.mean, stats.mean * np.exp(rng.normal(1, 1, S)))
    rng = np.random.default_rng(2)
    rough = MatchedPool(uneven, [(100,)], 40, 2.0, rng, features=FEATURES[:2]).match((100,))
    close = MatchedPool(uneven, [(100,)], 40, 2.0, rng, features=FEATURES).match((100,))
    rough_f, close_f = (
        np.median(np.abs(match.draw_features - match.features), axis=0) for match in (rough, close)
    )
    assert close_f[2] < rough_f[2] and rough_f[0] <= close_f[0] < np.log(2)


def test_a_small_dictionary_gives_what_it_has(stats):
    few = LatentStats(stats.rate[:30], stats.mean[:30], stats.largest[:30])
    drawn = pool(few, [(15,)], n_draws=100)
    assert len(drawn.sets) == 19  # 20 alive, one its own
