"""How README and docs are written: one sentence a line, so that a change shows as what it changes."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_PROSE = ("#", "|", "<", "![", "---")
ITEM = re.compile(r"([-*]|\d+\.) ")
SENTENCE_END = re.compile(r"(?<!\bal)(?<!\be\.g)(?<!\bi\.e)(?<!\.)([.?!][)\]\"”*_`]*)\s+(?=\S)")


def paragraphs(text: str) -> Iterator[list[str]]:
    """Lines of prose that belong together, without bullets; no code, tables, headings, pictures."""
    found: list[str] = []
    for line in re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S).splitlines():
        line = line.strip()
        is_prose = bool(line) and not line.startswith(NOT_PROSE)
        if found and (not is_prose or ITEM.match(line)):
            yield found
            found = []
        if is_prose:
            found.append(ITEM.sub("", line, count=1) if ITEM.match(line) else line)
    if found:
        yield found


def not_one_sentence_a_line(text: str) -> list[str]:
    """Lines that hold two sentences or break one."""
    return [
        line
        for lines in paragraphs(text)
        for line in set(lines) - set(SENTENCE_END.sub(r"\1\n", " ".join(lines)).split("\n"))
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_line_of_prose_is_one_sentence(page: Path) -> None:
    assert not_one_sentence_a_line(page.read_text()) == []


def test_two_sentences_on_a_line_and_a_broken_one_are_found() -> None:
    good = "# One. Two.\n\nGao et al. 2024 say so.\nIs it?\n\n- first (a.)\n  second: `x.y`\n"
    code = "```bash\nmake. it.\nso\n```\n\n| a. b. | c |\n"
    assert not_one_sentence_a_line("See below:\n\n" + code) == []
    assert not_one_sentence_a_line(good.replace("  second", "  Second.\n  Third")) == []
    assert not_one_sentence_a_line("One. Two.\n") == ["One. Two."]
    assert sorted(not_one_sentence_a_line("It is\nbroken.\n")) == ["It is", "broken."]
    assert not_one_sentence_a_line("- One.\n- Two (here). Three.\n") == ["Two (here). Three."]
