"""Verdicts on made-up effects: what is planted is found, what is not there is not."""

from dataclasses import replace

import numpy as np
import pytest

from saev.intervention.judge.tally import Clean, Groups, Question, Tally
from saev.intervention.judge.verdict import (
    NO_POWER,
    NOT_SUPPORTED,
    SUPPORTED,
    Evidence,
    decide,
    judge,
)

GROUPS = Groups(((0, 3),))
N_IMAGES, N_UNITS = 20, 30


def clean() -> Clean:
    n = np.full((N_IMAGES, 3), float(N_UNITS))
    zero = np.zeros_like(n)
    return Clean(Tally(zero, zero, n, 0.9 * n, 0.05 * n), n, n, 3 * n)


def edited(rates: list[float], rng: np.random.Generator) -> Tally:
    """An edit that changes so large a share of each class's units."""
    changed = rng.binomial(N_UNITS, rates, (N_IMAGES, 3)).astype(float)
    zero = np.zeros_like(changed)
    return Tally(changed, zero, N_UNITS - changed, 0.9 * (N_UNITS - changed), zero)


def evidence(
    target: float, null: list[tuple[float, float]], rng, direction: float = 0.05, **kwargs
) -> Evidence:
    return Evidence(
        Question(0, "selective_change", "decrease", GROUPS, (1, 2)),
        clean(),
        edited([target, 0.05, 0.05], rng),
        stack([edited([a, b, b], rng) for a, b in null]),
        {"random_direction": stack([edited([direction] * 3, rng) for _ in range(20)])},
        **kwargs,
    )


def stack(tallies: list[Tally]) -> Tally:
    return Tally.stack(tallies, np.arange(N_IMAGES))


def verdict(one: Evidence, **kwargs):
    return judge({"heart": one}, {"heart": [7]}, 0.05, kwargs.pop("smallest_effect", 0.25))[0]


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
    one = Evidence(one.question, one.clean, one.selected, one.random, strong)
    row = verdict(one)
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
    row = next(r for r in judge(many, {n: [1] for n in many}, 0.05, 0.25) if r.concept == "heart")
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
    row = replace(row, p=p, smallest_detectable=0.9, beats_directions={"random_direction": False})
    assert decide([row], 0.05, 0.25)[0].verdict == expected


def test_the_last_bit_of_q_does_not_decide(rng):
    row = verdict(evidence(0.8, QUIET, rng))
    rows = [replace(row, p=6 / 140, p_images=1e-4, concept=str(i)) for i in range(6)]
    rows = decide([*rows, replace(row, p=0.9, concept="6")], 0.05, 0.25)
    assert rows[0].q == pytest.approx(0.05) and rows[0].verdict == SUPPORTED
