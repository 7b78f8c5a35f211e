"""Placebo latents and injected effects: what errs too often is said to, and what is put there is found."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from saev.intervention.arms.injection import Injection, fitting_slope, margins
from saev.intervention.arms.matched_latents import SIZES, AlikePool
from saev.intervention.choose.code_table import LatentStats
from saev.intervention.choose.placebo_sets import placebo_sets, sets_needed, turns
from saev.intervention.judge.placebo import (
    Placebo,
    marked,
    placebo_of,
    power_rates,
    rung_p_values,
)
from saev.intervention.judge.rungs import Rung
from saev.intervention.judge.verdict import Criteria, Verdict

CRITERIA = Criteria(0.05, 0.25)
MATCH = dict.fromkeys(SIZES, 1.0)


def row(p: float, latents: list[int], **changes) -> Verdict:
    """A measured hypothesis whose tests all say ``p``, but for what is changed."""
    verdict = Verdict(
        hypothesis="heart", concept="heart", verdict="not_supported",
        rungs={
            "learned": Rung(False, 0.3, (0.1, 0.5), p),
            "selective": Rung(False, -0.1, (-0.2, -0.05), p),
        },
        effect=0.5, interval=(0.3, 0.7), p=p, p_images=p, p_selection=None,
        p_same_length={"random_direction": p}, q=0.5, match=MATCH, effect_size=1.0, cliffs_delta=0.1,
        null_mean=0.0, null_95=0.2, target_change=0.5, other_change=0.1, selectivity=0.8,
        smallest_detectable=0.1, n_images=20, n_draws=139, metric="selective_change", direction="decrease",
        latents=latents,
    )  # fmt: skip
    return replace(verdict, **changes)


def uniform(n: int, power: float = 1.0) -> list[Verdict]:
    """Two hypotheses on each latent with p uniform, or smaller by a power."""
    p = np.random.default_rng(0).random(n) ** power
    return [row(float(value), [number // 2]) for number, value in enumerate(p)]


def judged(rows: list[Verdict]) -> Placebo:
    return placebo_of(rows, {}, CRITERIA, 5, 0)


def test_honest_tests_leave_the_verdicts_as_they_are():
    found = judged(uniform(160))
    assert found.exceeded == [] and found.n_sets == 80 and found.n_hypotheses == 160
    assert {rate.test for rate in found.rates} == {
        "random_latents", "images", "random_direction", "learned", "selective", "rung_effect",
        "rung_learned", "rung_selective",
    }  # fmt: skip
    assert marked(uniform(3), found) == uniform(3)


def test_a_test_whose_p_is_too_small_marks_every_verdict():
    rows = [replace(one, p_images=one.p_images**2) for one in uniform(160)]
    found = judged(rows)
    assert found.exceeded == ["images"]
    for before, after in zip(rows[:3], marked(rows[:3], found), strict=True):
        assert after.error_rates_exceeded == ["images"]
        assert after.sentence.startswith(before.sentence)
        assert "must not be relied on" in after.sentence and "8 % is the bound" in after.sentence


def test_a_rung_that_errs_is_named():
    found = judged(uniform(160, power=3))
    assert "rung_effect" in found.exceeded and "rung_learned" in found.exceeded


@pytest.mark.parametrize(
    "changes",
    [
        {"interval": (-0.1, 0.7)},
        {"p_same_length": {"random_direction": 0.1}},
        {"p_images": 0.3},
        {"match": {**MATCH, "dose": 1.8}},
    ],
)
def test_the_rung_of_a_lone_hypothesis_needs_all_that_a_verdict_needs(changes):
    assert rung_p_values(row(0.01, [0]), CRITERIA)["effect"] == 0.01
    assert rung_p_values(row(0.01, [0], **changes), CRITERIA)["effect"] == 1.0


def test_power_by_strength():
    strong, weak = [row(0.001, [k]) for k in range(20)], [row(0.5, [k]) for k in range(20)]
    mixed = [row(0.02, [k]) for k in range(10)] + weak[10:]
    low, middle, high = power_rates({0.5: weak, 1.0: mixed, 2.0: strong}, CRITERIA, 5)
    assert (low.share, middle.share, high.share) == (0.0, 0.5, 1.0)
    assert (middle.share_corrected, high.share_corrected) == (0.0, 1.0)
    assert high.interval[0] > 0.8 and high.n_latents == 20
    assert (middle.by_test["images"], high.by_test["images"]) == (0.5, 1.0)
    assert middle.strictest is high.strictest is None  # all tests say the same
    lone = [replace(one, p_same_length={"random_direction": 0.2}) for one in strong]
    [costly] = power_rates({1.0: lone}, CRITERIA, 5)
    assert costly.share == 0.0 and costly.strictest == "random_direction"


def pool(n_latents: int = 200) -> AlikePool:
    rng = np.random.default_rng(0)
    rate, mean, largest = np.exp(rng.normal(0, 1, (3, n_latents)))
    rate[-1] = 0.0  # dead
    return AlikePool(LatentStats(rate, mean, largest), [(0,)], 0, rng)


def test_placebo_sets_are_other_latents_from_around_the_selected_ones():
    features, selected = pool(), [(3,), (50,)]
    found = placebo_sets(features, selected, 40, np.random.default_rng(0))
    assert len(set(found)) == 40
    latents = {latent for one in found for latent in one}
    assert not latents & {3, 50, 199}
    for latent in (3, 50):
        nearest = [k for k in features.near(latent, 12) if k not in (3, 50)]
        assert set(nearest[:10]) <= latents
    assert len(placebo_sets(features, selected, 300, np.random.default_rng(0))) == 197


def test_placebo_sets_of_several_latents():
    selected = [(1, 2, 3), (4, 5, 6)]
    found = placebo_sets(pool(), selected, 30, np.random.default_rng(0))
    assert len(set(found)) == 30
    for latents in found:
        assert len(set(latents)) == 3 and not set(latents) & {1, 2, 3, 4, 5, 6, 199}


@pytest.mark.parametrize(("n", "n_concepts"), [(200, 7), (200, 26), (10, 3), (500, 2), (200, 1)])
def test_concepts_take_turns(n, n_concepts):
    n_sets = sets_needed(n, n_concepts)
    chosen = turns(n, n_sets, n_concepts)
    assert sum(map(len, chosen)) >= n and len(chosen) >= min(n, 40)
    assert all(len(set(one)) == len(one) for one in chosen)
    times = np.bincount(np.concatenate(chosen), minlength=n_concepts)
    assert times.max() - times.min() <= max(map(len, chosen))


def injection(per: str, slope: float = -2.0) -> Injection:
    direction = torch.tensor([0.6, 0.8, 0.0])
    return Injection(1, direction, slope, torch.tensor([1, 2]), per, np.array([True, False, True]))


def test_an_injection_by_hand():
    change = torch.zeros(1, 3, 3)
    change[0, 0] = 100.0  # a token that is not read
    change[0, 1] = torch.tensor([1.0, 2.0, 5.0])  # 2.2 along the direction
    change[0, 2] = torch.tensor([0.0, 1.0, 7.0])  # 0.8
    logits = torch.zeros(1, 2, 3)
    found = injection("patch").logits(logits, change)
    expected = torch.tensor([[[0, -4.4, 0], [0, -1.6, 0]]])
    torch.testing.assert_close(found, expected)
    found = injection("image").logits(logits[:, :1], change)
    torch.testing.assert_close(found, torch.tensor([[[0, -3.0, 0]]]))
    assert not logits.any(), "the clean logits stay"
    assert injection("patch").place.tolist() == [0, -1, 1]


def test_an_unedited_stream_has_the_predictions_of_the_model():
    logits = torch.randn(4, 2, 3)
    assert torch.equal(injection("patch").logits(logits, torch.zeros(4, 3, 3)), logits)


def test_the_margin_is_what_a_prediction_has_to_lose_or_to_win():
    logits = np.array(
        [[[5.0, 1, 0], [2, 1, 9], [0, 1, 0], [9, 1, 0]]]
    )  # the last column: another group
    base = np.array([[0, 0, 0, 1]])
    nan = np.nan
    lose = margins(logits, base, (0, 2), 0, "decrease")
    np.testing.assert_array_equal(lose, [[4, 1, -1, nan]])  # the third is wrong
    win = margins(logits, base, (0, 2), 1, "increase")
    np.testing.assert_array_equal(win, [[4, 1, -1, nan]])
    assert np.isnan(margins(logits, base - 1, (0, 2), 1, "decrease")).sum() == 4


@pytest.mark.parametrize("strength", [0.25, 1.0, 4.0])
def test_an_injected_effect_has_its_size_whatever_the_edit_does_by_itself(strength: float):
    rng = np.random.default_rng(0)
    before, along = rng.exponential(2, 201), rng.uniform(0.5, 2, 201)
    for natural in (-3.0, 0.0, 1.0):  # the edit raises the class, does nothing, lowers it
        after = before - natural * along + rng.normal(0, 0.3, 201)
        slope = fitting_slope(before, after, along, strength)
        ended = np.median(after - slope * along)
        assert ended == pytest.approx((1 - strength) * np.median(before))
    reached = np.where(np.arange(201) < 51, along, 0.0)
    slope = fitting_slope(before, before, reached, strength)
    ended = np.median((before - slope * reached)[:51])
    assert ended == pytest.approx((1 - strength) * np.median(before[:51]))
    assert np.isnan(fitting_slope(before, before, np.zeros(201), strength))
