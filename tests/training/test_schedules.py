import pytest

from saev.sae.objectives.objective import warmup
from saev.training.schedules import decay


def test_warmup_by_hand() -> None:
    assert [warmup(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert warmup(0, 0) == 1


def test_decay_by_hand() -> None:
    factors = [decay(step, 8, 0.5, "linear") for step in range(9)]
    assert factors == pytest.approx([1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0])
    assert decay(5, float("inf"), 0.0, "linear") == 1
