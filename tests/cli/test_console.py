"""Tables and commands on screen."""

import logging
import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from saev.cli.command import PrintableFormatter
from saev.cli.console import override, print_next, print_table
from saev.cli.sentence import sentence
from saev.errors import UserError


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


HOSTILE = "cat\x1b[2J\x1b]0;title\x07\u202egnp.exe\x9b31m"


def test_names_of_others_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(HOSTILE, [HOSTILE], [[HOSTILE], ["Zoë 中 \u200d"]])
    print_next([HOSTILE])
    record = logging.makeLogRecord({"msg": HOSTILE})
    told = capsys.readouterr().out + str(sentence(UserError(HOSTILE)))
    told += PrintableFormatter("%(message)s").format(record)
    assert told.count(r"cat\x1b[2J") == 6
    assert all(c.isprintable() or c in "\n\u200d" for c in told)
    assert "Zoë 中 \u200d" in told


def test_other_ranks_are_silent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    print_table("t", ["a"], [["b"]])
    print_next(["c"])
    assert capsys.readouterr().out == ""


def test_an_override_can_be_pasted() -> None:
    assert override("sae", Path("outputs/a-1/sae")) == "sae=outputs/a-1/sae"
    odd = "outputs/0_model=relu,k=3/sae"
    (word,) = shlex.split(override("sae", odd))
    parsed = OverridesParser.create().parse_override(word)
    assert (parsed.key_or_group, parsed.value()) == ("sae", odd)
