"""What the repository promises about itself: README tree, packages, pins, imports."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HEAVY = ("torch", "lightning", "mlflow", "open_clip", "timm", "hydra", "matplotlib", "webdataset")


def tracked_files() -> list[str]:
    """Files git has or would take, so that a new file is asked for before it is committed."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others"]
    listed = subprocess.run(
        [*command, "--exclude-standard"], capture_output=True, text=True, check=True
    ).stdout.split("\0")
    return [name for name in listed if name and (ROOT / name).is_file()]


def read_tree(text: str) -> dict[str, bool]:
    """The paths of the README's tree block: path → whether lines below it show its contents."""
    block = re.search(r"^```\w*\nsaev-lightning/[^\n]*\n(.*?)^```", text, re.M | re.S)
    assert block, "README.md has no fenced block that begins with saev-lightning/"
    paths: dict[str, bool] = {}
    parents: list[str] = []
    for line in block.group(1).splitlines():
        found = re.match(r"((?:[│ ] {3})*)(?:├── |└── )(\S+)\s*(.*)", line.replace("\u00a0", " "))
        if not found:
            assert not line.strip(" │"), f"not a line of a tree: {line!r}"
            continue
        depth, name, comment = len(found.group(1)) // 4, found.group(2).rstrip("/"), found.group(3)
        assert comment, f"README tree: {name} has no word on what it is"
        assert depth <= len(parents), f"README tree: {name} is indented too far"
        parents = [*parents[:depth], name]
        for count in range(1, depth + 1):
            paths["/".join(parents[:count])] = True
        paths["/".join(parents)] = False
    return paths


def rooms(files: list[str]) -> set[str]:
    """Folders at the top level, and the packages directly in `saev/`, but for hidden ones."""
    folders = [name.split("/")[:-1] for name in files]
    top = {parts[0] for parts in folders if parts and not parts[0].startswith(".")}
    return top | {f"saev/{parts[1]}" for parts in folders if parts[:1] == ["saev"] and parts[1:]}


def test_the_readme_tree_shows_every_room() -> None:
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 170, "README.md: move what is detail to docs/guide.md"
    tree = read_tree(readme)
    assert len(tree) <= 30, "README tree: a line for each room, files go to package docstrings"
    missing = rooms(tracked_files()) - tree.keys()
    assert not missing, f"README tree lacks {sorted(missing)}"
    gone = [path for path in tree if not (ROOT / path).exists()]
    assert not gone, f"README tree shows what is not there: {gone}"


def test_read_tree_reads_folders_files_and_depth() -> None:
    text = """
```
saev-lightning/
├── conf/             one YAML per choice
├── saev/             the library
│   ├── sae/          maths
│   └── train.py      the verb
└── Makefile          targets
```
"""
    tree = read_tree(text)
    assert tree.keys() == {"conf", "saev", "saev/sae", "saev/train.py", "Makefile"}
    files = ["saev/sae/model.py", "saev/new/deep/file.py", "saev/__init__.py", "conf/train.yaml",
             "docs/guide.md", ".ci/run", "LICENSE"]  # fmt: skip
    assert rooms(files) - tree.keys() == {"saev/new", "docs"}
    with pytest.raises(AssertionError, match="Makefile has no word"):
        read_tree(text.replace("Makefile          targets", "Makefile"))


def wrongly_listed(package: Path) -> list[str]:
    """Files and sub-packages that a package's docstring lacks, or lists and are not there.

    A line of the list is `name: what it is`, or `name/: what it is` for a sub-package.
    """
    docstring = ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or ""
    listed = re.findall(
        r"^\s*(?:[-*]\s+|\d+\.\s+)?`*(\w+/?)`*: \S", docstring.partition("\n")[2], re.M
    )
    there = [path.stem for path in package.glob("*.py") if path.stem != "__init__"]
    there += [f"{path.parent.name}/" for path in package.glob("*/__init__.py")]
    name = package.name
    return [
        *(
            f"{name}: {item} is listed twice"
            for item in sorted(set(listed))
            if listed.count(item) > 1
        ),
        *(f"{name}: {item} is not listed" for item in sorted(set(there) - set(listed))),
        *(f"{name}: {item} is not there" for item in sorted(set(listed) - set(there))),
    ]


def test_every_package_lists_its_files() -> None:
    packages = [
        path.parent
        for root in ("saev", "callbacks", "datamodules")
        for path in sorted((ROOT / root).rglob("__init__.py"))
    ]
    assert len(packages) > 20
    assert [line for package in packages for line in wrongly_listed(package)] == []


def test_a_file_that_is_not_listed_and_a_line_without_a_file_are_found(tmp_path: Path) -> None:
    package = tmp_path / "room"
    (package / "inner").mkdir(parents=True)
    for name in ("one.py", "two.py", "inner/__init__.py"):
        (package / name).write_text("")
    lines = ["Room: the headline.", "", "one: first", "two: second: with a colon", "inner/: more"]
    init = package / "__init__.py"
    init.write_text('"""' + "\n".join(lines) + '\n"""\n')
    assert wrongly_listed(package) == []
    (package / "new.py").write_text("")
    (package / "two.py").unlink()
    assert wrongly_listed(package) == ["room: new is not listed", "room: two is not there"]
    init.write_text('"""The room."""\n')
    assert "room: inner/ is not listed" in wrongly_listed(package)


def test_packages_are_listed_one_by_one() -> None:
    roots = ("saev", "callbacks", "datamodules")
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for root in roots
        for path in (ROOT / root).rglob("__init__.py")
    }
    elsewhere = PROJECT["tool"]["setuptools"]["package-dir"]
    assert elsewhere == {"saev.conf": "conf"}  # YAML alone: inside the package once it is installed
    assert found | set(elsewhere) == set(PROJECT["tool"]["setuptools"]["packages"])
    homeless = {
        str(path.relative_to(ROOT))
        for root in roots
        for path in (ROOT / root).rglob("*.py")
        if not (path.parent / "__init__.py").exists()
    }
    assert not homeless, f"modules in folders without __init__.py: {homeless}"


def test_files_beside_the_code_are_installed_with_it() -> None:
    """Configuration, templates, scripts and weights: without these a wheel answers no command, writes
    no pages and loads no demo model."""
    elsewhere = PROJECT["tool"]["setuptools"]["package-dir"]
    data = PROJECT["tool"]["setuptools"]["package-data"]
    globbed = {
        str(path.relative_to(ROOT))
        for package, patterns in data.items()
        for pattern in patterns
        for path in (ROOT / elsewhere.get(package, package.replace(".", "/"))).glob(pattern)
    }
    roots = ("saev/", "callbacks/", "datamodules/", "conf/")
    beside = {n for n in tracked_files() if n.startswith(roots) and not n.endswith(".py")}
    assert beside - globbed == set()


def test_constraints_are_plain_pins_and_cover_what_is_asked_for() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pin = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==\d+(\.\d+)*(\.?(a|b|rc|post)\d+)?")
    wrong = [line for line in lines if not pin.fullmatch(line)]
    assert not wrong, f"not of the form name==version: {wrong}"
    names = [normal(line.partition("==")[0]) for line in lines]
    assert len(names) == len(set(names)), "a package is pinned twice"
    extras = PROJECT["project"]["optional-dependencies"].values()
    asked = [*PROJECT["project"]["dependencies"], *(item for extra in extras for item in extra)]
    unpinned = {normal(re.split(r"[\[<>=!~; ]", item)[0]) for item in asked} - set(names)
    assert not unpinned, f"constraints.txt has no pin for {sorted(unpinned)}"


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_nobody_imports_the_other_lightning() -> None:
    for path in (ROOT / name for name in tracked_files() if name.endswith(".py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            wrong = [name for name in names if name.split(".")[0] == "pytorch_lightning"]
            assert not wrong, f"{path}: import lightning, the two packages hold different classes"


def imported_by(text: str) -> set[str]:
    """Every module that a file names in an import, and ``module.name`` where it takes a name."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def borrowed_from_tests(text: str) -> list[str]:
    """What a test module imports from other test modules or their conftest."""
    private = re.compile(r"tests\.(?!fakes\.).*\b(test_\w+|conftest)")
    return sorted(name for name in imported_by(text) if private.match(name))


def test_no_test_module_imports_another() -> None:
    files = [name for name in tracked_files() if re.fullmatch(r"tests/.*\.py", name)]
    assert len(files) > 100
    borrowed = {name: borrowed_from_tests((ROOT / name).read_text()) for name in files}
    borrowed = {name: names for name, names in borrowed.items() if names}
    assert not borrowed, f"what several tests use goes to tests/fakes: {borrowed}"


@pytest.mark.parametrize(
    "line",
    [
        "from tests.cli.test_describe import make",
        "from tests.cli import test_describe",
        "import tests.cli.conftest as shared",
        "def f():\n    from tests.test_docs import ROOT",
    ],
)
def test_a_borrowed_test_is_seen(line: str) -> None:
    assert borrowed_from_tests(f"import os\nfrom tests.fakes.codes import build\n{line}\n")


OTHER_TESTS = {"attacks", "benchmarks", "cli", "data", "fakes", "real"}


def homeless_tests(files: list[str]) -> set[str]:
    """Folders of ``tests/`` that are no room of the code and are not named above."""
    rooms = {name.split("/")[1] for name in files if re.fullmatch(r"saev/\w+/__init__\.py", name)}
    folders = {name.split("/")[1] for name in files if re.match(r"tests/\w+/", name)}
    return folders - rooms - {"callbacks", "datamodules"} - OTHER_TESTS


def test_tests_mirror_the_rooms() -> None:
    assert homeless_tests(tracked_files()) == set()
    moved = ["saev/codes/__init__.py", "tests/codes/test_store.py", "tests/latents/test_store.py"]
    assert homeless_tests([*moved, "tests/fakes/codes.py", "tests/test_docs.py"]) == {"latents"}


def test_import_saev_is_light() -> None:
    code = f"import sys, saev; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_arrows_point_one_way() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()",
         "--no-cache"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_make_explains_its_targets() -> None:
    explained = set(re.findall(r"^([a-z-]+):.*## \S", (ROOT / "Makefile").read_text(), re.M))
    wanted = {"help", "setup", "demo", "train", "test", "test-all", "cover", "lint", "type"}
    others = {"bench", "bench-peers", "bench-recovery", "test-interop", "ui", "explore", "clean"}
    assert explained == wanted | {"check"} | others


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_help_lists_the_targets() -> None:
    done = subprocess.run(
        ["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "  make demo " in done.stdout and "  make test-all " in done.stdout


def foreign_instantiations(source: str) -> list[str]:
    """Calls of Hydra's ``instantiate``, ``call`` or ``get_class`` on what is not the composed
    configuration: a parameter annotated ``DictConfig``, or the items of a node of one."""
    tree = ast.parse(source)
    makers = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hydra")
        for alias in node.names
        if alias.name in ("instantiate", "call", "get_class", "get_object", "get_method")
    }
    found: list[str] = []

    def visit(node: ast.AST, trusted: frozenset[str]) -> None:
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            configs = {
                one.arg
                for one in given
                if one.annotation is not None and ast.unparse(one.annotation) == "DictConfig"
            }
            trusted = (trusted - {one.arg for one in given}) | configs
            trusted -= {
                one.target.id if isinstance(one, ast.NamedExpr) else one.id
                for one in ast.walk(node)
                if isinstance(one, ast.NamedExpr)
                or (isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store))
            }
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            for part in node.generators:
                names = {n.id for n in ast.walk(part.target) if isinstance(n, ast.Name)}
                trusted = trusted | names if root(part.iter) in trusted else trusted - names
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            ours = name in makers or name.startswith("hydra.utils.")
            if ours and not (node.args and root(node.args[0]) in trusted):
                found.append(ast.unparse(node))
        for child in ast.iter_child_nodes(node):
            visit(child, trusted)

    visit(tree, frozenset())
    return found


def root(expression: ast.expr) -> str | None:
    """The name that a chain of attributes, items and calls begins with."""
    while not isinstance(expression, ast.Name):
        match expression:
            case ast.Attribute() | ast.Subscript():
                expression = expression.value
            case ast.Call(func=ast.Attribute() as function):
                expression = function
            case ast.BoolOp(op=ast.Or(), values=[first, ast.Dict(keys=[])]):
                expression = first
            case _:
                return None
    return expression.id


OWN_FILES = {
    "benchmarks/recovery.py: instantiate(cfg, d_model=width)": "reads conf/model of this repository",
    "saev/training/fit.py: get_class(values['_target_'])": "a file of conf/model, by name",
    "saev/training/fit.py: instantiate(cfg, d_model=d_model)": "the same, with values from Python",
}


def test_only_the_composed_configuration_is_instantiated() -> None:
    """Files may come from strangers: what they say is looked up in tables, never instantiated."""
    foreign = {
        f"{path.relative_to(ROOT)}: {one}"
        for folder in ("saev", "callbacks", "datamodules", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        for one in foreign_instantiations(path.read_text())
    }
    assert foreign == OWN_FILES.keys()


@pytest.mark.parametrize(
    ("call", "is_foreign"),
    [
        ("instantiate(cfg.images)", False),
        ("instantiate(cfg['model'], d_model=3)", False),
        ("[instantiate(node) for node in (cfg.callbacks or {}).values()]", False),
        ("{k: instantiate(node) for k, node in cfg.more.items()}", False),
        ("instantiate(sae.cfg.images)", True),
        ("instantiate(cfg.images or sae.cfg.images)", True),
        ("instantiate(json.loads(text))", True),
        ("instantiate(images)", True),
        ("[instantiate(node) for node in config.values()]", True),
        ("[instantiate(cfg) for cfg in found]", True),
        ("(cfg := sae.cfg, instantiate(cfg.images))", True),
        ("hydra.utils.instantiate(spec)", True),
        ("make(spec)", True),
        ("(lambda cfg: instantiate(cfg))(spec)", True),
    ],
)
def test_a_foreign_instantiation_is_found(call: str, is_foreign: bool) -> None:
    source = (
        "import hydra\nfrom hydra.utils import instantiate, instantiate as make\n"
        f"def verb(cfg: DictConfig, sae, images):\n    return {call}\n"
    )
    assert bool(foreign_instantiations(source)) is is_foreign


def test_the_design_page_shows_the_floors_that_are_checked() -> None:
    layers = PROJECT["tool"]["importlinter"]["contracts"][0]["layers"]
    page = (ROOT / "docs/design.md").read_text()
    shown = re.search(r"^## Floors\n.*?^```\n(.*?)^```", page, re.M | re.S)
    assert shown, "docs/design.md has no block below ## Floors"
    assert shown.group(1).splitlines() == [layer.replace("saev.", "") for layer in layers]
