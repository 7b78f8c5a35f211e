"""The commands in README and docs are real: each composes to a config the command accepts."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(r"python -m saev\.(\w+)(.*)")


def commands() -> list[tuple[str, str, list[str]]]:
    found = []
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), flags=re.S):
            for line in block.replace("\\\n", " ").splitlines():
                match = COMMAND.search(line)
                if match and (ROOT / "conf" / f"{match[1]}.yaml").exists():
                    words = shlex.split(match[2], comments=True)
                    overrides = [
                        w.replace("…", "x") for w in words if w not in ("-m", "--multirun")
                    ]
                    found.append((page.name, match[1], overrides))
    return found


COMMANDS = commands()


def test_there_are_commands_to_check() -> None:
    assert {"train", "record", "evaluate"} <= {name for _, name, _ in COMMANDS}


@pytest.mark.parametrize(
    ("page", "name", "overrides"), COMMANDS, ids=[f"{p}: {n} {' '.join(o)}" for p, n, o in COMMANDS]
)
def test_documented_command_composes(page: str, name: str, overrides: list[str]) -> None:
    single = [
        re.sub(r"=([^\[,]+),.*$", r"=\1", override) for override in overrides
    ]  # one of a sweep
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
