"""The pages on Python run as they stand, block after block, in an empty folder."""

import re
from pathlib import Path

import pytest

PAGES = sorted((Path(__file__).parents[1] / "docs").glob("python_*.md"))


def code_of(page: Path) -> str:
    """The Python blocks of a page as one program, every line at its number in the page."""
    text = page.read_text()
    lines = [""] * len(text.splitlines())
    for block in re.finditer(r"^```python\n(.*?)^```", text, flags=re.S | re.M):
        first = text.count("\n", 0, block.start(1))
        for number, line in enumerate(block[1].splitlines()):
            lines[first + number] = line
    return "\n".join(lines)


def test_there_are_pages() -> None:
    assert {"python_own_model.md", "python_steering.md"} <= {page.name for page in PAGES}


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_runs(page: Path, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = code_of(page)
    assert code.strip(), f"{page.name} has no Python to run"
    exec(compile(code, str(page), "exec"), {"__name__": "__main__"})
