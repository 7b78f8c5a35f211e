"""The pages on Python and the tour run as they stand, block after block, in an empty folder."""

import ast
import gc
import json
import re
from pathlib import Path

import pytest

TOUR = Path(__file__).parents[1] / "docs" / "tour.ipynb"
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


def cells_of(notebook: Path) -> list[str]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def names_taken(code: str) -> set[str]:
    return {
        alias.name
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom) and node.module == "saev"
        for alias in node.names
    }


def test_the_tour_uses_every_public_name_and_shows_what_came_of_it() -> None:
    import saev

    code = "\n".join(cells_of(TOUR))
    assert names_taken(code) == set(saev._PUBLIC)
    text = TOUR.read_text(encoding="utf-8")
    assert text.count('"image/png"') >= 3 and '"output_type": "error"' not in text
    assert "/home/" not in text and "site-packages" not in text


@pytest.mark.slow
@pytest.mark.timeout(1800)  # of a machine that does something else as well
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of gradio and what it stands on
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_tour_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found: dict[str, object] = {"__name__": "__main__"}
    for number, cell in enumerate(cells_of(TOUR)):
        exec(compile(cell, f"tour.ipynb, cell {number}", "exec"), found)
    assert found["sae"].cfg.d_sae == 1024  # type: ignore[attr-defined]
    labels, of_class = found["names"], found["of_class"]
    triangle = labels.index("triangle")  # type: ignore[attr-defined]
    clean, edited = of_class  # type: ignore[misc]
    assert clean[triangle] > 0.9 and edited[triangle] < 0.5
    assert (tmp_path / "tour" / "steered" / "config.json").is_file()
    found.clear()
    gc.collect()  # gradio leaves sockets to the collector, which would complain in a later test
