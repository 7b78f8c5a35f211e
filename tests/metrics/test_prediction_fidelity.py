"""KL, agreement, accuracy and cross-entropy against scipy and by hand."""

import math

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy

from saev.metrics.prediction_fidelity import PredictionFidelity, kl_share_recovered


def logits(seed: int, n: int = 7, c: int = 5) -> torch.Tensor:
    return torch.randn(n, c, generator=torch.Generator().manual_seed(seed)) * 2


def test_equals_scipy_for_any_batch_split() -> None:
    clean, edited = logits(0), logits(1)
    targets = torch.tensor([0, 1, -1, 3, 4, -1, 2])
    p, q = softmax(clean.double().numpy(), 1), softmax(edited.double().numpy(), 1)
    labelled = targets.numpy() >= 0
    picked = q[labelled, targets.numpy()[labelled]]
    expected = {
        "kl": entropy(p, q, axis=1).mean(),
        "agreement": (p.argmax(1) == q.argmax(1)).mean(),
        "accuracy": (q.argmax(1) == targets.numpy())[labelled].mean(),
        "cross_entropy": -np.log(picked).mean(),
    }
    for split in ([7], [3, 4], [1] * 7):
        metric = PredictionFidelity()
        for a, b, t in zip(
            clean.split(split), edited.split(split), targets.split(split), strict=True
        ):
            metric.update(b, a, t)
        found = {key: float(value) for key, value in metric.compute().items()}
        assert found == pytest.approx(expected, rel=1e-9)


def test_an_edit_without_effect_has_no_divergence() -> None:
    metric = PredictionFidelity()
    metric.update(logits(0), logits(0), torch.full((7,), -1))
    found = metric.compute()
    assert float(found["kl"]) == 0.0
    assert float(found["agreement"]) == 1.0
    assert "accuracy" not in found  # nothing was labelled


def test_kl_by_hand() -> None:
    metric = PredictionFidelity()
    metric.update(
        torch.tensor([[0.0, 0.0]]), torch.log(torch.tensor([[0.8, 0.2]])), torch.tensor([1])
    )
    # 0.8 ln(0.8/0.5) + 0.2 ln(0.2/0.5)
    assert float(metric.compute()["kl"]) == pytest.approx(0.192745, abs=1e-5)
    assert float(metric.compute()["cross_entropy"]) == pytest.approx(0.693147, abs=1e-5)


def test_kl_recovered_is_one_for_no_loss_and_zero_for_the_mean() -> None:
    assert kl_share_recovered(0.0, 2.0) == 1.0
    assert kl_share_recovered(2.0, 2.0) == 0.0
    assert kl_share_recovered(3.0, 2.0) == -0.5  # worse than the mean
    assert math.isnan(kl_share_recovered(0.0, 0.0))
