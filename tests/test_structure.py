"""What the code promises about its shape: no circles, and one name for one thing."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[1]
PACKAGES = ("saev", "callbacks", "datamodules")
SKELETON = {"settings", "files", "tables", "page", "figures", "__init__"}
"""Stems that every noun may have: see the rules in docs/design.md."""


def sources() -> dict[str, str]:
    """Path from the root → text, of every Python file of the packages."""
    return {
        path.relative_to(ROOT).as_posix(): path.read_text()
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def module_of(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported(tree: ast.Module, known: Iterable[str]) -> set[str]:
    """Modules among ``known`` that a file imports anywhere in it, for types alone included."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports are absolute here"
            found |= {
                whole if (whole := f"{node.module}.{alias.name}") in known else node.module
                for alias in node.names
            }
    return found & set(known)


def circle(files: Mapping[str, str]) -> list[str]:
    """Modules that import each other in a loop, each the next; empty where there is none."""
    trees = {module_of(path): ast.parse(text) for path, text in files.items()}
    graph = {name: imported(tree, trees) - {name} for name, tree in trees.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1][::-1]  # it lists predecessors first
    return []


def of_one_stem(paths: Iterable[str]) -> dict[str, list[str]]:
    """Stem → files that bear it, where there are two or more and the skeleton has no such name."""
    homes: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        homes[PurePosixPath(path).stem].append(path)
    return {s: found for s, found in homes.items() if len(found) > 1 and s not in SKELETON}


def of_one_name(
    files: Mapping[str, str], kind: type[ast.ClassDef] | type[ast.FunctionDef]
) -> dict[str, set[str]]:
    """Public name of a class or function at the top of a file → files, where there are two or more."""
    homes: dict[str, set[str]] = defaultdict(set)
    for path, text in files.items():
        for node in ast.parse(text).body:
            if isinstance(node, kind) and not node.name.startswith("_"):
                homes[node.name].add(path)
    return {name: found for name, found in homes.items() if len(found) > 1}


def explained(design: str) -> dict[str, set[str]]:
    """Functions of one name that the design page gives a reason for → their homes."""
    section = re.search(r"^## Functions of one name\n(.*?)(?=^## |\Z)", design, re.M | re.S)
    assert section, "docs/design.md has no section on functions of one name"
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+) \|$", section.group(1), re.M)
    unreasoned = [name for name, _, why in rows if not why.strip()]
    assert not unreasoned, f"no reason for {unreasoned}"
    return {name: set(re.findall(r"`([^`]+)`", homes)) for name, homes, _ in rows}


def test_no_two_files_import_each_other() -> None:
    loop = circle(sources())
    assert not loop, f"a circle: {' → '.join(loop)}"


def test_no_two_files_of_saev_bear_one_name() -> None:
    assert of_one_stem(path for path in sources() if path.startswith("saev/")) == {}


def test_no_two_public_classes_bear_one_name() -> None:
    assert of_one_name(sources(), ast.ClassDef) == {}


def test_functions_of_one_name_are_explained() -> None:
    design = (ROOT / "docs/design.md").read_text()
    assert of_one_name(sources(), ast.FunctionDef) == explained(design)


def test_a_circle_is_seen_through_types_packages_and_functions() -> None:
    straight = {
        "saev/a.py": "from saev import b\nimport torch",
        "saev/b.py": "import saev.c",
        "saev/c.py": "",
        "saev/__init__.py": "",
    }
    assert circle(straight) == []
    late = "def f():\n    from saev.a import x"
    typed = "if TYPE_CHECKING:\n    from saev.a import X"
    for text in (late, typed):
        loop = circle({**straight, "saev/c.py": text})
        assert loop[0] == loop[-1] and set(loop) == {"saev.a", "saev.b", "saev.c"}
        assert loop[loop.index("saev.a") :][:2] != ["saev.a", "saev.c"], "in the arrows' direction"
    through_package = {
        "saev/d/__init__.py": "from saev.d.e import x",
        "saev/d/e.py": "import saev.d",
    }
    assert set(circle(through_package)) == {"saev.d", "saev.d.e"}


def test_a_second_file_class_or_function_of_one_name_is_seen() -> None:
    paths = ["saev/a/page.py", "saev/b/page.py", "saev/a/walk.py", "saev/b/walk.py", "saev/b/x.py"]
    assert of_one_stem(paths) == {"walk": ["saev/a/walk.py", "saev/b/walk.py"]}
    files = {
        "saev/a.py": "class One: ...\nclass _Own: ...\ndef f(): ...\ndef g():\n    def h(): ...",
        "saev/b.py": "class One: ...\nclass _Own: ...\ndef f(): ...\ndef h(): ...",
    }
    assert of_one_name(files, ast.ClassDef) == {"One": {"saev/a.py", "saev/b.py"}}
    assert of_one_name(files, ast.FunctionDef) == {"f": {"saev/a.py", "saev/b.py"}}


def test_the_table_of_the_design_page_is_read() -> None:
    page = (
        "## Functions of one name\n\n| function | homes | why |\n|---|---|---|\n"
        "| `f` | `saev/a.py`, `saev/b.py` | one contract |\n\n## Words\n| `g` | `c.py` | no |\n"
    )
    assert explained(page) == {"f": {"saev/a.py", "saev/b.py"}}


def test_the_maths_is_read_in_ten_minutes() -> None:
    """All of inference in one short file, and a module for training whose arguments one can survey."""
    import inspect

    from saev.training.sae_module import SAETraining

    lines = (ROOT / "saev/sae/model.py").read_text().splitlines()
    assert len(lines) <= 220
    assert all(f'"{name}"' in "\n".join(lines) for name in ("relu", "topk", "jump_relu", "gated"))
    assert len(inspect.signature(SAETraining).parameters) <= 15
