"""The four parts of M6 by sets, their null, and draws of images."""

import numpy as np
import pytest
import torch

from saev.metrics.visaebench.fvu import UnexplainedVariance, fvu
from saev.metrics.visaebench.sparse_probing_curve import sparse_probing_curve
from saev.metrics.visaebench.transfer_score import transfer_null, transfer_score
from saev.stats.bootstrap import bootstrap_interval


def planted(
    n: int = 120, s: int = 30
) -> tuple[np.ndarray, np.ndarray, UnexplainedVariance, np.ndarray]:
    """Latents that fire on their own images; codes, FVU and classes of the others."""
    rng = np.random.default_rng(0)
    label = np.arange(n) % 3
    codes = rng.random((n, s)) * (rng.random((n, s)) < 0.3)
    codes[:, :3] += label[:, None] == np.arange(3)
    codes[:, 20:] = 0
    own = np.arange(s) >= 5
    x = torch.randn(n, 4, 5, generator=torch.Generator().manual_seed(0))
    return own, codes.astype(np.float32), fvu(x, x * 0.7), label


def test_parts_are_those_of_sets() -> None:
    own, codes, unexplained, label = planted()
    found = transfer_score(own, codes, unexplained, label)
    here, there = set(range(5, 30)), set(range(20))
    assert found.parts.coverage == pytest.approx(len(here & there) / len(here))
    assert found.parts.overlap == pytest.approx(len(here & there) / len(here | there))
    assert found.parts.reconstruction == pytest.approx(1 - unexplained.value)
    probe = sparse_probing_curve(codes, label, ks=[10], ranked_on="train")
    assert found.parts.accuracy == probe.value > 0.8
    assert found.value == pytest.approx(np.mean([float(part) for part in found.parts]))
    assert 0 <= found.value <= 1


@pytest.mark.parametrize(
    ("power", "left", "expected"), [(1.0, 9.0, 0), (1.0, -9.0, 1), (-1, 1.0, 0)]
)
def test_reconstruction_keeps_within_its_range(power: float, left: float, expected: float) -> None:
    own, codes, _, label = planted()
    sums = np.tile([0.0, power, 0.0, left], (len(label), 1))
    if power < 0:
        sums[:] = [9.0, 1.0, 0.0, left]
    if left < 0:
        sums[:] = [0.0, power, 9.0, 1.0]
    found = transfer_score(own, codes, UnexplainedVariance(sums, 1, 1), label)
    assert found.parts.reconstruction == expected


def test_dead_on_one_side_and_few_latents() -> None:
    own, codes, unexplained, label = planted()
    nothing = transfer_score(own & False, codes, unexplained, label)
    assert (nothing.parts.coverage, nothing.parts.overlap) == (1.0, 0.0)
    silent = transfer_score(own & False, codes * 0, unexplained, label)
    assert (silent.parts.coverage, silent.parts.overlap) == (1.0, 0.0)
    few = transfer_score(own[:4], codes[:, :4], unexplained, label)
    assert few.probe.ks == (4,)


def test_null_values() -> None:
    own, codes, unexplained, label = planted()
    chance = transfer_score(own, codes, unexplained, label).chance
    assert chance.reconstruction == 0 and chance.accuracy == pytest.approx(1 / 3, abs=0.05)
    rng = np.random.default_rng(0)
    coverages, overlaps, accuracies = [], [], []
    for _ in range(2000):
        here, there = rng.permutation(own), rng.permutation(np.arange(30) < 20)
        coverages.append((here & there).sum() / here.sum())
        overlaps.append((here & there).sum() / (here | there).sum())
    assert chance.coverage == pytest.approx(np.mean(coverages), abs=0.01)
    assert chance.overlap == pytest.approx(np.mean(overlaps), abs=0.01)
    for _ in range(8):
        null = transfer_null(own, codes, unexplained, label, rng)
        accuracies.append(null.parts.accuracy)
        assert null.parts[:3] == transfer_score(own, codes, unexplained, label).parts[:3]
    assert np.mean(accuracies) == pytest.approx(1 / 3, abs=0.1)
    assert chance.average == pytest.approx(np.mean([float(part) for part in chance]))


def test_draws() -> None:
    own, codes, unexplained, label = planted()
    found = transfer_score(own, codes, unexplained, label)
    assert found.resampled(np.ones((2, 120))) == pytest.approx([found.value] * 2)
    codes[:, 25] = np.arange(120) == 7
    rare = transfer_score(own, codes, unexplained, label)
    without = np.ones((1, 120))
    without[0, 7] = 0
    lost = rare.parts_under(without).coverage - rare.parts.coverage
    assert float(np.asarray(lost)[0]) == pytest.approx(-1 / 25)
    low, high, _ = bootstrap_interval(found.resampled, 120)
    assert low < found.value < high
