"""Where a result came from."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from saev.files import file_sha256
from saev.tracking.provenance import git_state, package_versions, provenance_tags


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_git_state_follows_the_checkout(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert git_state(tmp_path) is None  # no commit yet
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-q", "-m", "first")
    state = git_state(tmp_path)
    assert state is not None
    assert state == (git(tmp_path, "rev-parse", "HEAD"), False)
    (tmp_path / "a").write_text("2")
    assert git_state(tmp_path) == (state.commit, True)
    (tmp_path / "below").mkdir()
    assert git_state(tmp_path / "below") is None  # a copy inside somebody else's checkout


def test_no_git_program_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state() is None
    assert provenance_tags()["saev.git.commit"] == "unknown"


def test_versions_and_hashes_become_tags(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b"{}")
    digest = hashlib.sha256(b"{}").hexdigest()
    assert file_sha256(tmp_path / "manifest.json") == digest
    tags = provenance_tags(manifest=tmp_path / "manifest.json")
    assert tags["saev.sha256.manifest"] == digest
    assert tags["saev.version.torch"] == package_versions()["torch"]
    assert all(isinstance(value, str) for value in tags.values())
