"""Tables and commands on screen."""

import pytest

from saev.tracking import print_next, print_table


def test_a_table_keeps_every_cell_whole_away_from_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    columns = ["", *(f"a rather long column title {i}" for i in range(8))]
    print_table("Held-out images", columns, [["clean [all]", *["0.12345"] * 8]])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Held-out images"
    row = next(line for line in lines if "clean [all]" in line)
    assert row.count("0.12345") == 8


def test_commands_are_never_broken(capsys: pytest.CaptureFixture[str]) -> None:
    command = "python -m saev.evaluate sae=" + "a/long/path/" * 30
    print_next([command, "make ui"])
    assert capsys.readouterr().out.splitlines() == ["Next:", f"  {command}", "  make ui"]


def test_other_ranks_are_silent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    print_table("t", ["a"], [["b"]])
    print_next(["c"])
    assert capsys.readouterr().out == ""
