"""Console output of a command when it is done."""

import re
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from saev.errors import printable
from saev.tracking.run import is_main_process

_LOG_FILE_WIDTH = 1000  # nobody's terminal: a table in a file is as wide as its cells


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table; the first column is left-aligned, the others, numbers mostly, right."""
    table = Table(box=SIMPLE_HEAD)
    for index, column in enumerate(columns):
        table.add_column(_text(column), justify="right" if index else "left", no_wrap=index > 0)
    for row in rows:
        table.add_row(*map(_text, row))
    _print(_text(title, style="bold"))
    _print(table)


def print_next(commands: Sequence[str]) -> None:
    """Prints the commands to try next, each on a line of its own and never broken."""
    _print(Text("Next:", style="bold"))
    for command in commands:
        _print(_text(f"  {command}"))


def override(key: str, value: str | Path) -> str:
    """``key=value`` as it can be pasted into a shell, quoted where Hydra would read more into it."""
    if re.fullmatch(r"[\w./~:@+-]*", str(value)):
        return f"{key}={value}"
    return f"\"{key}='{value}'\""


def _text(words: str, style: str = "") -> Text:
    """Names of classes and files are others' text."""
    return Text(printable(words), style=style)


def _print(content: Table | Text) -> None:
    if not is_main_process():
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_LOG_FILE_WIDTH)
    console.print(content, soft_wrap=isinstance(content, Text))
