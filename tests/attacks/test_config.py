"""Every key of the configuration against values that it cannot have: one sentence, nothing written."""

from pathlib import Path

import pytest

from tests.attacks.config_values import cases
from tests.attacks.forked import Outcome, run_forked

CASES = cases()
FAST = CASES[:: len(CASES) // 8]
STRIDE = 3


def attack(line: str, key: str, value: str, folder: Path) -> Outcome:
    verb, *choices = line.split()
    return run_forked([verb, *choices, f"{key}={value}"], folder, timeout=60)


def complaint(outcome: Outcome, key: str, folder: Path) -> str:
    """What is wrong with a refusal; empty where nothing is."""
    if outcome.status == 0:
        return "accepted"
    if outcome.status != 1:
        return f"status {outcome.status}"
    if "Traceback" in outcome.stderr:
        return "a traceback: " + outcome.said[-1]
    if len(outcome.said) != 1:
        return f"{len(outcome.said)} lines: {outcome.said}"
    if key.rpartition(".")[2] not in outcome.said[0]:
        return f"the key is not named: {outcome.said[0]}"
    if outcome.peak_bytes > 2e9:
        return f"{outcome.peak_bytes:,} bytes"
    left = sorted(path.name for path in folder.iterdir())
    return f"left {left}" if left else ""


def test_enough_is_tried() -> None:
    assert len(CASES[::STRIDE]) >= 350
    assert len({(line, key) for line, key, _ in CASES}) >= 180
    assert {(line, key) for line, key, _ in CASES[::STRIDE]} == {
        (line, key) for line, key, _ in CASES
    }, "every key"


@pytest.mark.parametrize("case", FAST, ids=lambda case: f"{case[1]}={case[2]}")
def test_nonsense_is_refused(case: tuple[str, str, str], tmp_path: Path) -> None:
    assert complaint(attack(*case, tmp_path), case[1], tmp_path) == ""
