"""The commands in README and docs are real: each composes to a config the command accepts."""

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from saev.cli.refusals import refuse_foreign_experiments

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PLACEHOLDERS = {"+experiment=NAME": "+experiment=seg_camvid", "model=MODEL": "model=topk"}
COMMAND = re.compile(r"python -m saev\.(\w+)(.*)")


def commands() -> list[tuple[str, str, list[str]]]:
    found = []
    for page in PAGES:
        text = page.read_text()
        inline = re.findall(r"(?<!`)`(python -m saev[^`]*)`", text)
        for block in [*re.findall(r"```bash\n(.*?)```", text, flags=re.S), *inline]:
            for line in block.replace("\\\n", " ").splitlines():
                match = COMMAND.search(line)
                if match and (ROOT / "conf" / f"{match[1]}.yaml").exists():
                    words = shlex.split(match[2], comments=True)
                    overrides = [
                        PLACEHOLDERS.get(w, w).replace("…", "x")
                        for w in words
                        if w not in ("-m", "--multirun")
                    ]
                    found.append((page.name, match[1], overrides))
    return found


COMMANDS = list(
    {(name, *overrides): (page, name, overrides) for page, name, overrides in commands()}.values()
)
"""Each once, where it is shown last."""


def test_there_are_commands_to_check() -> None:
    assert {"train", "record", "evaluate"} <= {name for _, name, _ in COMMANDS}


@pytest.mark.parametrize(
    ("page", "name", "overrides"), COMMANDS, ids=[f"{p}: {n} {' '.join(o)}" for p, n, o in COMMANDS]
)
def test_documented_command_composes(page: str, name: str, overrides: list[str]) -> None:
    single = [
        re.sub(r"=([^\[,]+),.*$", r"=\1", override) for override in overrides
    ]  # one of a sweep
    refuse_foreign_experiments(name, overrides)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        compose(name, overrides=single, return_hydra_config=True)


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_tests_named_in_the_docs_exist() -> None:
    named = {
        match
        for page in PAGES
        for match in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text())
    }
    assert len(named) > 20
    for path, name in named:
        assert f"def {name}(" in (ROOT / path).read_text(), f"{path} has no {name}"


def test_python_in_the_docs_imports_what_there_is() -> None:
    imports = {
        (node.module, alias.name)
        for page in PAGES
        if page.name != "design.md"  # its blocks are sketches of signatures
        for block in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.S)
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    assert ("saev", "fit_dictionary") in imports
    ours = {item for item in imports if item[0].split(".")[0] in ("saev", "datamodules")}
    missing = [item for item in ours if not hasattr(importlib.import_module(item[0]), item[1])]
    assert missing == []
