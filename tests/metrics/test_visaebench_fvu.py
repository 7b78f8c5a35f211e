"""Variance left, with the benchmark's own second term: by loops, and where it leaves its range."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saev.metrics.visaebench.fvu import fvu, shuffled_reconstructions
from saev.stats.bootstrap import bootstrap_interval, image_weights


def pair(seed: int = 0, n: int = 6, p: int = 4, d: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, p, d, generator=generator, dtype=torch.float64)
    x = x - x.mean((0, 1))
    return x, x + 0.3 * torch.randn(n, p, d, generator=generator, dtype=torch.float64)


def slow_fvu(x: Tensor, x_hat: Tensor) -> float:
    def spread(tokens: list[list[float]]) -> float:
        squares = sum(sum(entry**2 for entry in token) for token in tokens) / len(tokens)
        return squares - (sum(sum(token) for token in tokens) / len(tokens)) ** 2

    tokens, left = x.flatten(0, 1).tolist(), (x - x_hat).flatten(0, 1).tolist()
    return spread(left) / spread(tokens)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 999))
def test_is_the_loop_and_the_documented_one_is_a_ratio_of_variances(seed: int) -> None:
    x, x_hat = pair(seed)
    found = fvu(x + 0.1, x_hat)
    assert found.value == pytest.approx(slow_fvu(x + 0.1, x_hat))
    expected = float((x + 0.1 - x_hat).var(correction=0) / x.var(correction=0))
    assert found.documented == pytest.approx(expected)
    assert found.documented >= 0


@settings(deadline=None, max_examples=20)
@given(st.floats(0.1, 100), st.integers(0, 99))
def test_scale_and_the_order_of_tokens_change_nothing(factor: float, seed: int) -> None:
    x, x_hat = pair(seed)
    expected = fvu(x, x_hat).value
    assert fvu(factor * x, factor * x_hat).value == pytest.approx(expected)
    order = torch.randperm(len(x))
    assert fvu(x[order], x_hat[order]).value == pytest.approx(expected)


def test_perfect_none_and_another_tokens() -> None:
    x, x_hat = pair(n=400)
    assert fvu(x, x).value == pytest.approx(0)
    assert fvu(x, torch.zeros_like(x)).value == pytest.approx(1)
    shuffled = shuffled_reconstructions(x_hat, torch.Generator().manual_seed(0))
    expected = 1 + float(x_hat.square().sum() / x.square().sum())
    assert fvu(x, shuffled).value == pytest.approx(expected, rel=0.05)
    again = shuffled_reconstructions(x_hat, torch.Generator().manual_seed(0))
    assert torch.equal(shuffled, again)


def test_a_shift_of_all_entries_takes_it_below_zero() -> None:
    """The flaw of the benchmark's number: d·(d − 1)·t²/E‖x‖² less, though the error grows."""
    x, x_hat = pair(d=8)
    plain, shifted = fvu(x, x_hat), fvu(x, x_hat + 5.0)
    mean_r = float((x - x_hat).sum(-1).mean())
    gained = 8 * 25 - 2 * 5 * mean_r - (8 * 5 - mean_r) ** 2 + mean_r**2
    power = float(x.square().sum(-1).mean())
    assert shifted.value - plain.value == pytest.approx(gained / power)
    assert shifted.value < -50 and shifted.documented == pytest.approx(plain.documented)


def test_without_spread_it_is_infinite_and_shapes_must_agree() -> None:
    x = torch.ones(2, 3, 4)
    assert fvu(x, torch.zeros_like(x)).value == np.inf
    with pytest.raises(ValueError, match="one shape"):
        fvu(x, torch.zeros(2, 3, 1))


def test_draws_are_the_value_of_repeated_images() -> None:
    x, x_hat = pair(n=30)
    found = fvu(x, x_hat)
    assert found.resampled(np.ones((1, 30)))[0] == pytest.approx(found.value)
    weight = image_weights(30, 3, np.random.default_rng(0))
    for row, drawn in zip(weight, found.resampled(weight), strict=True):
        rows = torch.from_numpy(np.repeat(np.arange(30), row.astype(int)))
        assert drawn == pytest.approx(fvu(x[rows], x_hat[rows]).value)
    low, high, _ = bootstrap_interval(found.resampled, 30)
    assert low < found.value < high
    parts = [fvu(x[:10], x_hat[:10]), fvu(x[10:], x_hat[10:])]
    whole = found._replace(sums_n4=np.concatenate([part.sums_n4 for part in parts]))
    assert whole.value == pytest.approx(found.value)
