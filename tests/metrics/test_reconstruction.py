"""Each metric against a slow, obvious computation, and its null value."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saev.metrics import ReconstructionMetrics
from saev.metrics.firing import FiringStatistics, MeanL0, MeanL1
from saev.metrics.reconstruction import CosineSimilarity, ExplainedVariance, NormalizedMSE

D = 3


def data(n: int = 40, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, D, generator=generator) * torch.tensor([1.0, 5.0, 0.2]) + 7
    return x, x + 0.5 * torch.randn(n, D, generator=generator)


def value(metric, *batches: tuple[Tensor, ...]) -> float:
    for batch in batches:
        metric.update(*batch)
    return float(metric.compute())


def slow_explained_variance(x: Tensor, x_hat: Tensor) -> float:
    rows, guesses = x.double().tolist(), x_hat.double().tolist()
    means = [sum(row[j] for row in rows) / len(rows) for j in range(D)]
    error = sum((r[j] - g[j]) ** 2 for r, g in zip(rows, guesses, strict=True) for j in range(D))
    total = sum((r[j] - means[j]) ** 2 for r in rows for j in range(D))
    return 1 - error / total


def test_explained_variance_is_the_definition() -> None:
    x, x_hat = data()
    expected = slow_explained_variance(x, x_hat)
    assert value(ExplainedVariance(D), (x, x_hat)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_predicting_the_mean_explains_nothing_and_the_truth_everything(offset: float) -> None:
    x = data()[0].double() + offset
    mean = x.mean(0).expand_as(x)
    shift = mean[0] + 0.1
    assert abs(value(ExplainedVariance(D, shift), (x, mean))) < 1e-12
    assert value(ExplainedVariance(D), (x, x)) == 1
    # Without a shift the same holds up to the rounding of the much larger squares.
    assert abs(value(ExplainedVariance(D), (x, mean))) < 1e-12 * (1 + offset**2)


@pytest.mark.parametrize("row", [[0.1, 0.2, 0.3], [1e8, 1.0, 0.0], [0.0, 0.0, 0.0]])
@pytest.mark.parametrize("n", [1, 7, 4000])
def test_explained_variance_of_what_does_not_vary_is_unknown(row: list[float], n: int) -> None:
    x = torch.tensor([row]).repeat(n, 1)
    for shift in (None, torch.tensor(row), torch.tensor(row) + 0.1):
        assert math.isnan(value(ExplainedVariance(D, shift), (x, x + 1), (x[:0], x[:0])))
        assert math.isnan(value(ExplainedVariance(D, shift), (x, x)))


@settings(max_examples=30, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 39), max_size=3),
    offset=st.floats(-50, 50),
    factor=st.floats(0.1, 10),
    seed=st.integers(0, 20),
)
def test_invariances(cuts: list[int], offset: float, factor: float, seed: int) -> None:
    x, x_hat = (t.double() for t in data(seed=seed))
    bounds = [0, *sorted(set(cuts)), 40]
    parts = [slice(a, b) for a, b in itertools.pairwise(bounds)]
    for make in (lambda: ExplainedVariance(D), NormalizedMSE, CosineSimilarity):
        whole = value(make(), (x, x_hat))
        split = value(make(), *((x[p], x_hat[p]) for p in parts))
        scaled = value(make(), (factor * x, factor * x_hat))
        assert split == pytest.approx(whole, abs=1e-12)
        assert scaled == pytest.approx(whole, abs=1e-9)
    moved = value(ExplainedVariance(D), (x + offset, x_hat + offset))
    assert moved == pytest.approx(value(ExplainedVariance(D), (x, x_hat)), abs=1e-9)


def test_states_of_two_ranks_add_up() -> None:
    x, x_hat = data()
    first, second, both = (ExplainedVariance(D) for _ in range(3))
    first.update(x[:10], x_hat[:10])
    second.update(x[10:], x_hat[10:])
    for name in first._defaults:
        setattr(first, name, getattr(first, name) + getattr(second, name))
    assert float(first.compute()) == pytest.approx(value(both, (x, x_hat)), abs=1e-12)


def test_nmse_by_hand() -> None:
    x = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]])
    x_hat = torch.tensor([[3.0, 3.0], [0.0, 1.0], [5.0, 0.0]])
    assert value(NormalizedMSE(), (x, x_hat)) == pytest.approx((1 / 25 + 2) / 2)
    assert value(NormalizedMSE(), (x, torch.zeros_like(x))) == 1


def test_cosine_by_hand() -> None:
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [1.0, 0.0]])
    x_hat = torch.tensor([[3.0, 0.0], [0.0, -1.0], [1.0, 0.0], [0.0, 0.0]])
    expected = (1 - 1 + 1 / math.sqrt(2) + 0) / 4
    assert value(CosineSimilarity(), (x, x_hat)) == pytest.approx(expected)


CODES = torch.tensor([[0.0, 1.0, 2.0], [0.0, 0.5, 0.0], [0.0, 1.5, 0.0], [0.0, 0.5, 0.0]])


def test_l0_and_l1_by_hand() -> None:
    assert value(MeanL0(), (CODES[:1],), (CODES[1:],)) == 5 / 4
    assert value(MeanL1(), (CODES[:1],), (CODES[1:],)) == pytest.approx(5.5 / 4)


def test_firing_shares_by_hand() -> None:
    # Of ten tokens: latent 0 never fires, latent 1 always, latent 2 once, which is not above 10 %.
    firing = FiringStatistics(3)
    firing.update(CODES)
    firing.update(torch.tensor([[0.0, 1.0, 0.0]]).expand(6, 3))
    shares = firing.compute()
    assert firing.frequencies().tolist() == [0, 1, 0.1]
    assert [float(share) for share in shares] == pytest.approx([1 / 3, 2 / 3, 1 / 3])


def test_collection_has_one_number_each_and_forgets() -> None:
    x, x_hat = data(4)
    metrics = ReconstructionMetrics(D, 3)
    metrics.update(x, x_hat, CODES)
    metrics.update(x[:0], x_hat[:0], CODES[:0])
    values = {name: float(v) for name, v in metrics.compute().items()}
    assert list(values) == [
        "explained_variance",
        "nmse",
        "cosine",
        "l0",
        "l1",
        "dead_fraction",
        "alive_fraction",
        "dense_fraction",
    ]
    assert values["explained_variance"] == pytest.approx(slow_explained_variance(x, x_hat))
    assert values["l0"] == 5 / 4 and values["dead_fraction"] == pytest.approx(1 / 3)
    metrics.reset()
    metrics.update(x, x, CODES)
    assert float(metrics.compute()["explained_variance"]) == 1


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5])
def test_firing_is_counted_alike_whether_few_or_many_fire(share: float) -> None:
    z = torch.rand(200, 50) * (torch.rand(200, 50) < share) - 0.1 * (torch.rand(200, 50) < 0.1)
    firing, l0 = FiringStatistics(50), MeanL0()
    for part in z.split(70):
        firing.update(part)
        l0.update(part)
    assert firing.counts.tolist() == [sum(v > 0 for v in column) for column in z.T.tolist()]
    assert l0.compute().item() == pytest.approx((z > 0).float().sum(1).mean().item())
