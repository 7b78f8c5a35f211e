"""Verdicts on made-up effects: what is planted is found, what is not there is not."""

import json
from dataclasses import replace

import numpy as np
import pytest

from saev.intervention.arms.matched_latents import SIZES, Matched
from saev.intervention.judge.dose_curves import Curves
from saev.intervention.judge.rungs import Rung, learned_rung
from saev.intervention.judge.tally import Clean, Groups, Question, Tally
from saev.intervention.judge.verdict import (
    NO_MATCH,
    NO_POWER,
    NOT_SUPPORTED,
    SUPPORTED,
    Criteria,
    Evidence,
    decide,
    judge,
)

GROUPS = Groups(((0, 3),))
N_IMAGES, N_UNITS = 20, 30
CRITERIA = Criteria(0.05, 0.25)


def clean() -> Clean:
    n = np.full((N_IMAGES, 3), float(N_UNITS))
    zero = np.zeros_like(n)
    return Clean(Tally(zero, zero, zero, zero, n, 0.9 * n, 0.05 * n), n, n, n, 3 * n)


def edited(rates: list[float], rng: np.random.Generator) -> Tally:
    """An edit that changes so large a share of each class's units."""
    changed = rng.binomial(N_UNITS, rates, (N_IMAGES, 3)).astype(float)
    zero = np.zeros_like(changed)
    left = N_UNITS - changed
    return Tally(changed, changed, zero, zero, left, 0.9 * left, zero)


def evidence(
    target: float, null: list[tuple[float, float]], rng, direction: float = 0.05, **kwargs
) -> Evidence:
    return Evidence(
        Question(0, "selective_change", "decrease", GROUPS, (1, 2)),
        clean(),
        edited([target, 0.05, 0.05], rng),
        stack([edited([a, b, b], rng) for a, b in null]),
        alike(len(null)),
        {"random_direction": stack([edited([direction] * 3, rng) for _ in range(20)])},
        **kwargs,
    )


def alike(n_draws: int, given_dose: bool = True, **ratios: float) -> Matched:
    """Random edits of the sizes of the selected one, give or take, but for some."""
    shift = np.log([ratios.get(name, 1.0) for name in SIZES])
    spread = np.random.default_rng(3).normal(0, 0.5, (n_draws, 3))
    sizes = shift + spread - np.median(spread, 0)
    return Matched(list(range(n_draws)), np.zeros(3), sizes, given_dose)


def stack(tallies: list[Tally]) -> Tally:
    return Tally.stack(tallies, np.arange(N_IMAGES))


def verdict(one: Evidence, **kwargs):
    return judge({"heart": one}, {"heart": [7]}, replace(CRITERIA, **kwargs))[0]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


QUIET = [(0.05, 0.05)] * 40


def test_supported(rng):
    row = verdict(evidence(0.8, QUIET, rng))
    assert row.verdict == SUPPORTED
    assert row.effect == pytest.approx(0.75, abs=0.05)
    assert row.interval[0] < row.effect < row.interval[1]
    assert row.p == 1 / 41 and row.q == row.p and row.p_images < 0.001 and row.p_selection is None
    assert row.target_change == pytest.approx(0.8, abs=0.05)
    assert row.other_change == pytest.approx(0.05, abs=0.03)
    assert row.n_images == N_IMAGES and row.n_draws == 40
    assert "“heart”" in row.sentence and "\n" not in row.sentence


def test_not_supported_when_nothing_happens(rng):
    row = verdict(evidence(0.06, QUIET, rng))
    assert row.verdict == NOT_SUPPORTED and "random latents" in row.sentence


def test_not_supported_when_a_random_direction_does_as_much(rng):
    one = evidence(0.8, QUIET, rng)
    strong = {"random_direction": stack([edited([0.99, 0.05, 0.05], rng)] * 20)}
    row = verdict(replace(one, same_length=strong))
    assert row.verdict == NOT_SUPPORTED and "random direction" in row.sentence


def test_no_power_when_the_null_is_wide(rng):
    wide = [(share, 0.0) for share in np.linspace(0, 0.9, 40)]
    row = verdict(evidence(0.4, wide, rng))
    assert row.verdict == NO_POWER
    assert row.smallest_detectable > 0.8 and "would have been seen" in row.sentence


def test_the_best_of_many_is_held_to_a_higher_standard(rng):
    null = [(share, 0.05) for share in np.linspace(0.05, 0.6, 60)]
    one = verdict(evidence(0.58, null, rng))
    best = verdict(evidence(0.58, null, np.random.default_rng(0), best_of=10))
    assert best.p > 3 * one.p


def test_an_effect_against_the_expected_direction_is_not_supported(rng):
    one = evidence(0.0, QUIET, rng)
    assert verdict(one).verdict != SUPPORTED


def test_correction_over_hypotheses(rng):
    null = [(share, 0.05) for share in np.linspace(0.0, 0.5, 40)]
    alone = verdict(evidence(0.49, null, rng))
    many = {f"c{i}": evidence(0.05, QUIET, rng) for i in range(20)}
    many["heart"] = evidence(0.49, null, np.random.default_rng(0))
    row = next(r for r in judge(many, {n: [1] for n in many}, CRITERIA) if r.concept == "heart")
    assert row.q > row.p and row.q > alone.q


@pytest.mark.parametrize("p_selection, expected", [(0.01, SUPPORTED), (0.3, NOT_SUPPORTED)])
def test_the_weakest_test_decides(rng, p_selection, expected):
    row = verdict(evidence(0.8, QUIET, rng, p_selection=p_selection))
    assert row.verdict == expected and row.q == max(row.p, row.p_images, p_selection)
    assert ("shuffled labels" in row.sentence) == (expected == NOT_SUPPORTED)


def test_json(rng):
    content = verdict(evidence(0.8, QUIET, rng)).to_dict()
    for key in ("hypothesis", "concept", "verdict", "effect", "interval", "p", "q"):
        assert key in content
    assert isinstance(content["interval"], list)


@pytest.mark.parametrize("p, expected", [(0.02, NOT_SUPPORTED), (0.2, NO_POWER)])
def test_what_was_seen_did_not_lack_the_power_to_be_seen(rng, p, expected):
    """One is beaten by a random direction, the other by chance as well, under one wide null."""
    row = verdict(evidence(0.8, QUIET, rng))
    row = replace(row, p=p, smallest_detectable=0.9, p_same_length={"random_direction": 0.2})
    assert decide([row], CRITERIA)[0].verdict == expected


def test_the_last_bit_of_q_does_not_decide(rng):
    row = verdict(evidence(0.8, QUIET, rng))
    rows = [replace(row, p=6 / 140, p_images=1e-4, concept=str(i)) for i in range(6)]
    rows = decide([*rows, replace(row, p=0.9, concept="6")], CRITERIA)
    assert rows[0].q == pytest.approx(0.05) and rows[0].verdict == SUPPORTED


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("ratio, expected", [(1.4, SUPPORTED), (1.6, NO_MATCH), (0.6, NO_MATCH)])
def test_unlike_random_latents_say_nothing(rng, name, ratio, expected):
    one = replace(evidence(0.8, QUIET, rng), matched=alike(40, **{name: ratio}))
    row = verdict(one)
    assert row.verdict == expected and row.match[name] == pytest.approx(ratio)
    assert row.rungs["effect"].holds == (expected == SUPPORTED)
    assert verdict(one, max_ratio=2.0).verdict == SUPPORTED


def test_where_random_latents_only_fire_alike_their_features_are_regressed_out(rng):
    """An effect that any latent of this firing rate has is none of the selected ones."""
    matched = alike(40, given_dose=False)
    shares = np.clip(0.3 + 0.25 * matched.draw_sizes[:, 0], 0, 1)
    null = [(share, 0.0) for share in shares]
    usual = replace(matched, sizes=np.array([1.2, 0.0, 0.0]))
    one = evidence(0.62, null, rng)
    assert verdict(replace(one, matched=usual), max_ratio=5.0).p > 0.1
    assert verdict(replace(one, matched=replace(usual, given_dose=True)), max_ratio=5.0).p < 0.1


def test_one_stronger_control_of_twenty_is_one_too_many(rng):
    """20 draws have to be exceeded all: of exchangeable ones the edit is the strongest in 1 of 21."""
    one = evidence(0.8, QUIET, rng)
    draws = [edited([0.05] * 3, rng) for _ in range(19)]
    for extra, expected in ((0.05, SUPPORTED), (0.99, NOT_SUPPORTED)):
        control = stack([*draws, edited([extra, 0.0, 0.0], rng)])
        assert verdict(replace(one, same_length={"random_direction": control})).verdict == expected


def test_images_are_compared_with_the_strongest_random_latents(rng):
    """An edit above the average random latent, as half of all are, is no effect on any image."""
    null = [(share, 0.05) for share in np.linspace(0.1, 0.6, 40)]
    assert verdict(evidence(0.45, null, rng)).p_images > 0.5
    assert verdict(evidence(0.8, null, rng)).p_images < 0.001


def learned(target: float, shares: list[float], rng) -> Rung:
    untrained = stack([edited([share, 0.05, 0.05], rng) for share in shares])
    one = replace(evidence(target, QUIET, rng), untrained=untrained)
    return verdict(one).rungs["learned"]


def test_learned_is_more_than_the_strongest_untrained_dictionary(rng):
    found = learned(0.8, [0.2] * 18 + [0.4], rng)
    assert found.holds and found.estimate == pytest.approx(0.6, abs=0.05)
    assert found.interval[0] > 0.5 and found.p < 0.001
    missed = learned(0.8, [0.2] * 18 + [0.8], rng)
    assert not missed.holds and missed.interval[0] > 0


def test_untrained_dictionaries_do_not_teach_themselves(rng):
    """Another untrained dictionary in the place of the trained one, each with an effect of its own."""
    question, weights = evidence(0.5, QUIET, rng).question, np.ones((3, N_IMAGES))
    passed = 0
    for _ in range(200):
        first, *others = (edited([share, 0.05, 0.05], rng) for share in rng.uniform(0.1, 0.6, 20))
        found = learned_rung(question, clean(), first, stack(others), weights, n_flips=199)
        passed += found.p <= 0.05
    assert passed <= 0.05 * 200 + 4


DOSES = (0.25, 0.5, 1.0, 2.0)


def selective(slopes: dict[str, float], rng) -> Rung:
    """Arms that change the target alike and so much of the rest for it."""
    targets = np.array([0.2, 0.4, 0.7, 0.9])
    arms = {
        arm: stack([edited([t, slope * t, slope * t], rng) for t in targets])
        for arm, slope in slopes.items()
    }
    one = replace(evidence(0.7, QUIET, rng), curves=Curves(DOSES, arms))
    row = verdict(one)
    assert {(r.arm, r.level) for r in row.tradeoff} == {
        (arm, level) for arm in slopes for level in (0.25, 0.5, 0.75)
    }
    return row.rungs["selective"]


def test_selective_is_less_than_diffmean_and_the_probe(rng):
    found = selective({"selected": 0.1, "diffmean": 0.3, "linear_probe": 0.5}, rng)
    assert found.holds and found.estimate == pytest.approx(0.5 * (0.1 - 0.3), abs=0.03)
    assert found.interval[1] < 0 and found.p < 0.01
    one = {"selected": 0.3, "diffmean": 0.5, "linear_probe": 0.1}
    assert not selective(one, rng).holds  # the probe is more selective
    assert not selective(dict.fromkeys(one, 0.3), rng).holds


def test_an_edit_that_never_changes_half_of_the_target_is_not_selective(rng):
    targets = {"selected": 0.1, "diffmean": 0.2, "linear_probe": 0.2}
    arms = {
        arm: stack([edited([t * share, 0.01, 0.01], rng) for t in np.array(DOSES)])
        for arm, share in targets.items()
    }
    one = replace(evidence(0.7, QUIET, rng), curves=Curves(DOSES, arms))
    row = verdict(one)
    assert not row.rungs["selective"].holds and row.rungs["selective"].p == 1
    json.dumps(row.to_dict(), allow_nan=False)
