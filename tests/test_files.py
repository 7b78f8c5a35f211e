"""SHA-256 of files, and files that appear whole."""

import hashlib
from pathlib import Path

import pytest

from saev.files import appearing_whole, file_sha256, write_atomically


def test_sha256_of_a_file_and_of_the_rest_of_an_open_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"head and rest")
    assert file_sha256(tmp_path / "a") == hashlib.sha256(b"head and rest").hexdigest()
    with (tmp_path / "a").open("rb") as file:
        file.read(5)
        assert file_sha256(file) == hashlib.sha256(b"and rest").hexdigest()


def test_a_file_changes_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, "old ü")
    assert path.read_bytes() == "old ü".encode()
    with pytest.raises(KeyError), appearing_whole(path) as temporary:
        temporary.write_text("half")
        assert path.read_text(encoding="utf-8") == "old ü"
        raise KeyError
    assert path.read_text(encoding="utf-8") == "old ü"
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "none" / "a", b"")
