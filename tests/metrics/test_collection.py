"""Metrics of parts, put together."""

import pytest
import torch

from saev.metrics import ReconstructionMetrics


def test_parts_merge_to_what_was_seen_at_once() -> None:
    torch.manual_seed(0)
    x = torch.randn(90, 6)
    x_hat, z = x + 0.3 * torch.randn(90, 6), torch.randn(90, 12).relu()
    z[:, 3] = 0
    whole, some, rest = (ReconstructionMetrics(6, 12) for _ in range(3))
    whole.update(x, x_hat, z)
    some.update(x[:50], x_hat[:50], z[:50])
    rest.update(x[50:], x_hat[50:], z[50:])
    before = some.compute()
    some.merge(rest)
    after = some.compute()
    for name, value in whole.compute().items():
        assert float(after[name]) == pytest.approx(float(value), rel=1e-12), name
    assert float(before["explained_variance"]) != float(after["explained_variance"])


def test_parts_without_a_token_change_nothing() -> None:
    x = torch.randn(20, 6)
    seen, empty = ReconstructionMetrics(6, 12), ReconstructionMetrics(6, 12)
    seen.update(x, 0.5 * x, torch.rand(20, 12))
    before = seen.compute()
    seen.merge(empty)
    assert {name: float(value) for name, value in seen.compute().items()} == {
        name: float(value) for name, value in before.items()
    }
