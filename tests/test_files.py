"""SHA-256 of files, and files that appear whole."""

import errno
import hashlib
import re
from pathlib import Path

import pandas as pd
import pytest

from saev.files import (
    appearing_whole,
    file_sha256,
    full_disk,
    read_parquet,
    remove_partials,
    write_atomically,
    write_table,
)

ROOT = Path(__file__).parents[1]


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


def test_tables_appear_whole_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pd.DataFrame({"name": ["Zoë", "b"], "value": [0.5, 2.0]}, index=[7, 9])
    for name, read in (("a.csv", pd.read_csv), ("a.parquet", read_parquet)):
        write_table(frame, tmp_path / name)
        pd.testing.assert_frame_equal(read(tmp_path / name), frame.reset_index(drop=True))
    before = (tmp_path / "a.parquet").read_bytes()

    def half(_: pd.DataFrame, path: Path, **__: bool) -> None:
        path.write_bytes(b"PAR1")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", half)
    with pytest.raises(OSError, match="No space"):
        write_table(frame, tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_every_table_is_written_whole() -> None:
    writers = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "saev").rglob("*.py")
        if re.search(r"\.to_(parquet|csv)\(", path.read_text(encoding="utf-8"))
    }
    assert writers == {"saev/files.py"}


def test_a_folder_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "none" / "a", b"")


def test_what_a_killed_process_was_writing_is_removed(tmp_path: Path) -> None:
    for name in (".a.json.77.tmp", "sae/.config.json.7.tmp", "latents/codes/.part.8.tmp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("half")
    (tmp_path / "a.json").write_text("whole")
    (tmp_path / ".a_user_s.tmp").write_text("whole")
    remove_partials(tmp_path)
    remove_partials(tmp_path / "nowhere")
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"a.json", ".a_user_s.tmp"}


def test_a_full_disk_is_found_behind_other_errors_and_named() -> None:
    renamed = OSError(errno.ENOSPC, "No space left on device", "/tmp/x", None, "/runs/last.ckpt")
    found = full_disk(renamed)
    assert found is not None and found.filename == "/runs/last.ckpt"
    try:
        raise RuntimeError("unexpected pos 64 vs 0") from renamed
    except RuntimeError as error:
        found = full_disk(error, "/runs/best.ckpt")
    assert found is not None and found.filename == "/runs/best.ckpt"
    assert full_disk(OSError(errno.EIO, "I/O error")) is None
    own_cause = ValueError()
    own_cause.__cause__ = own_cause
    assert full_disk(own_cause) is None
    assert full_disk(RuntimeError("shape mismatch")) is None


def test_a_column_of_nulls_is_one_of_texts(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    frame = pd.DataFrame({"latent": [0, 1], "name": [None, None], "known": ["a", None],
                          "parts": [[1], [2, 3]]})  # fmt: skip
    write_table(frame, tmp_path / "t.parquet")
    assert [str(kind) for kind in pq.read_schema(tmp_path / "t.parquet").types] == [
        "int64", "string", "large_string", "list<element: int64>",
    ]  # fmt: skip
    again = read_parquet(tmp_path / "t.parquet")
    assert again["name"].dtype == again["known"].dtype, "read as a column with some texts is"
    assert pd.read_parquet(tmp_path / "t.parquet")["name"].isna().all()
    assert frame["name"].dtype == object, "the caller's frame stays as it was"
    write_table(frame[:0], tmp_path / "empty.parquet")
    assert len(pd.read_parquet(tmp_path / "empty.parquet")) == 0
