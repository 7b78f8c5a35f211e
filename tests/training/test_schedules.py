import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saev.sae.objectives.objective import warmup
from saev.training.arguments import LearningRate
from saev.training.schedules import (
    HORIZON_STEPS,
    AuxPlan,
    adam_rate,
    candidates,
    decay,
    make_plan,
    peak_rate,
    rate_factor,
)


def test_warmup_by_hand() -> None:
    assert [warmup(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert warmup(0, 0) == 1


def test_decay_by_hand() -> None:
    factors = [decay(step, 8, 0.5, "linear") for step in range(9)]
    assert factors == pytest.approx([1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0])
    assert decay(5, float("inf"), 0.0, "linear") == 1


def test_a_run_shorter_than_its_warm_up_is_said_to_be(caplog: pytest.LogCaptureFixture) -> None:
    rate = LearningRate(warmup_steps=100, decay_fraction=0)
    assert rate_factor(100, 64, rate)(99) == 1.0 and rate_factor(float("inf"), 64, rate)(0) == 0.01
    assert caplog.text == ""
    assert rate_factor(25, 64, rate)(24) == 0.25
    assert "warmup_steps) and the run has 25: it ends at 25 % of its peak" in caplog.text


def test_the_rate_falls_with_width_and_length_and_rises_with_the_batch() -> None:
    rate = adam_rate(d_sae=3072, tokens_per_step=2048, n_steps=977)
    assert rate == pytest.approx(3.69e-3, rel=1e-3)  # best of a grid: 3.7e-3
    assert adam_rate(4 * 3072, 2048, 977) == pytest.approx(rate / 2)
    assert adam_rate(3072, 2048, 16 * 977) == pytest.approx(rate / 2)
    # at equal tokens it is the law of the square root
    assert adam_rate(3072, 512, 4 * 977) == pytest.approx(rate / 2)


@pytest.mark.parametrize(
    ("lr", "expected"), [({}, {}), ({"lr": 2e-3}, {"lr": 2e-3}), ({"lr": "auto"}, {"lr": 0.0113})]
)
def test_a_given_rate_stays_and_auto_becomes_a_number(lr: dict, expected: dict) -> None:
    make = functools.partial(torch.optim.Adam, **lr)
    found = peak_rate(make, d_sae=256, tokens_per_step=64, n_steps=50)
    assert found == pytest.approx(expected, rel=0.01)
    if lr.get("lr") == "auto":
        assert found["lr"] == adam_rate(256, 64, 50)
        with pytest.raises(ValueError, match=r"lr=auto needs the number of tokens"):
            peak_rate(make, 256, None, 50)


@settings(max_examples=50, deadline=None)
@given(
    since=st.lists(st.integers(0, 5000), min_size=1, max_size=40),
    dead_after=st.integers(1, 6000),
    n_tokens=st.integers(1, 64),
    d_model=st.sampled_from([1, 2**20]),
)
def test_no_dead_latent_is_left_out_while_the_plan_holds(
    since: list[int], dead_after: int, n_tokens: int, d_model: int
) -> None:
    counts = torch.tensor(since)
    plan = make_plan(counts, dead_after, 7, n_tokens, d_model)
    # The worst case: none of them fires again.
    for step in range(7, 7 + HORIZON_STEPS):
        assert plan.covers(step, n_tokens)
        dead = set((counts >= dead_after).nonzero().flatten().tolist())
        chosen = set(candidates(counts, plan.n_candidates).tolist())
        assert dead <= chosen
        counts = counts + n_tokens
    assert not plan.covers(7 + HORIZON_STEPS, n_tokens)


@pytest.mark.parametrize(("d_model", "expected"), [(768, 2560), (8, 4096)])
def test_a_large_dictionary_has_few_candidates_beyond_the_dead(d_model: int, expected: int) -> None:
    since = torch.zeros(24_576, dtype=torch.long)
    since[:2458] = 10**9
    assert make_plan(since, 10**6, 0, 64, d_model).n_candidates == expected


def test_a_larger_batch_needs_a_new_plan() -> None:
    assert not AuxPlan(100, 64, 0).covers(3, 65)


def test_nothing_to_do_when_all_fired_lately() -> None:
    assert make_plan(torch.zeros(8, dtype=torch.long), 10_000, 0, 16, 4).n_candidates == 0
