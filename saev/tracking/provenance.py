"""Provenance of a result: code, versions, files."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from saev.files import file_sha256

ROOT = Path(__file__).resolve().parents[2]

STACK = (
    "saev-lightning",
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "hydra-core",
    "timm",
    "open_clip_torch",
    "webdataset",
    "mlflow",
    "numpy",
)
"""The packages that can move a number."""


class GitState(NamedTuple):
    """The state of the checkout that the code runs from."""

    commit: str
    """Full hash of HEAD."""
    dirty: bool
    """True when a file differs from that commit or is not part of it."""


def git_state(root: Path = ROOT) -> GitState | None:
    """The commit of the checkout at ``root``; None without git, outside a checkout or before its
    first commit."""
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root.resolve():
        return None  # an installed copy, maybe below somebody else's checkout
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    status = _git(root, "status", "--porcelain")
    return None if commit is None or status is None else GitState(commit, status != "")


def _git(root: Path, *arguments: str) -> str | None:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # leave a user's index alone
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True, text=True, timeout=20, env=environment, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def package_versions() -> dict[str, str]:
    """Installed version of each package of the stack; those that are not installed are left out."""
    versions = {"python": platform.python_version()}
    for name in STACK:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def provenance_tags(**files: str | Path) -> dict[str, str]:
    """Tags for a run: git state, versions, and ``saev.sha256.<name>`` of each file given by name.

    ``provenance_tags(manifest=path)`` gives ``saev.sha256.manifest`` beside the rest. MLflow's own
    tag for the commit is set too, which its UI shows as a column.
    """
    tags = {f"saev.version.{name}": number for name, number in package_versions().items()}
    state = git_state()
    if state is None:
        tags["saev.git.commit"] = "unknown"
    else:
        tags["saev.git.commit"] = tags["mlflow.source.git.commit"] = state.commit
        tags["saev.git.dirty"] = str(state.dirty).lower()
    return tags | {f"saev.sha256.{name}": file_sha256(path) for name, path in files.items()}
