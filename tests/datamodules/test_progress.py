"""Progress bars and their switch."""

from pathlib import Path

import pytest

from datamodules.progress import progress_bar, progress_bars


def shown(capsys: pytest.CaptureFixture[str]) -> bool:
    with progress_bar("walking", 3, stays=True) as advance:
        advance(3)
    return "walking" in capsys.readouterr().out


def test_bars_are_shown_unless_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys)
    with progress_bars(False):
        assert not shown(capsys)
        with progress_bars(True):  # what is around it decides
            assert not shown(capsys)
    with progress_bars(True):
        assert shown(capsys)
    assert shown(capsys)


def test_the_switch_is_over_every_bar() -> None:
    root = Path(__file__).parents[2]
    homes = [
        path.relative_to(root).as_posix()
        for package in ("saev", "callbacks", "datamodules")
        for path in (root / package).rglob("*.py")
        if "rich.progress" in path.read_text()
    ]
    assert homes == ["datamodules/progress.py"]
