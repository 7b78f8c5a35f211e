"""Files: SHA-256, writing that leaves a whole file or none, full disks, and reading what a stranger wrote.

A file that comes from elsewhere may hold anything. It is read up to a size, as plain data, and each
field is compared with a table, ``name → Check``, before anything believes it.
"""

import errno
import hashlib
import json
import math
import os
import re
import reprlib
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from saev.errors import UserError, first_line

if TYPE_CHECKING:
    import pandas as pd

MOST_CELLS = 10**8
MOST_BYTES = 1 << 24
"""Of a file of settings. Parsed it takes some twenty times as much memory."""
DEEPEST = 16
"""Levels of lists and mappings in a field that may hold any plain data."""
LARGEST = 2**53
"""Whole numbers up to here are exact in every JSON library."""

_SHORT = reprlib.Repr()  # what YAML's aliases make of a line may be endless written out
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, 80, 80

Check = Callable[[Any, str], str | None]
"""Value and its name → what is wrong with it, in words; None where nothing is."""


def file_sha256(file: str | Path | BinaryIO) -> str:
    """SHA-256 in hex of a file, or of the rest of an open one; read in pieces."""
    if isinstance(file, str | Path):
        with Path(file).open("rb") as opened:
            return file_sha256(opened)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


@contextmanager
def appearing_whole(path: Path) -> Iterator[Path]:
    """A path next to this one to write a file to, which takes its place when the block ends.

    A reader sees the old file or the new one, whole. Where the block fails, nothing changes.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # or a power cut may leave the name without its content
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Writes these bytes, or this text in UTF-8, as ``appearing_whole`` does; raises OSError."""
    with appearing_whole(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_table(frame: "pd.DataFrame", path: Path) -> None:
    """A table as CSV or Parquet, by the name's end, without its index, as ``appearing_whole`` does.

    A column of nothing but nulls becomes one of texts: Parquet's null type is none that SQL can compare.
    """
    with appearing_whole(path) as temporary:
        if path.suffix == ".csv":
            frame.to_csv(temporary, index=False)
            return
        frame.to_parquet(temporary, index=False, schema=_schema_of(frame))


def _schema_of(frame: "pd.DataFrame") -> Any:
    """Of Arrow, with texts where nothing but nulls says what a column holds."""
    import pyarrow as pa

    schema = pa.Schema.from_pandas(frame, preserve_index=False)
    for place, field in enumerate(schema):
        if pa.types.is_null(field.type) and len(frame):
            schema = schema.set(place, field.with_type(pa.string()))
    return schema


def read_json(path: Path, remedy: str = "get or write it again") -> dict[str, Any]:
    """A JSON object from a file of at most ``MOST_BYTES``.

    Raises UserError where the file cannot be read, is larger, or holds something else.
    """
    return parse_json(read_whole(path, remedy), str(path), remedy)


def read_whole(path: Path, remedy: str = "get or write it again", most: int = MOST_BYTES) -> bytes:
    """All of a file; raises UserError where it cannot be read or has more than ``most`` bytes."""
    try:
        require_file(path, remedy, most)
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {remedy}.") from error


def require_file(path: Path, remedy: str, most: int) -> None:
    """Raises UserError unless it is a file of at most ``most`` bytes, and OSError where nothing is
    there: a pipe would be waited for, and a device may never end."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        what = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or a device"
        raise UserError(f"{path} is {what} and no file; {remedy}.")
    if found.st_size > most:
        raise UserError(f"{path} has more than {most:,} bytes; {remedy}.")


def parse_json(text: bytes, where: str, remedy: str) -> dict[str, Any]:
    """A JSON object; raises UserError, which ``where`` begins and ``remedy`` ends, for anything else."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UserError(f"{where} cannot be read as JSON ({reason}); {remedy}.") from error
    if not isinstance(content, dict):
        raise UserError(f"{where} holds no JSON object but a {type(content).__name__}; {remedy}.")
    return content


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> "pd.DataFrame":
    """A table of at most ``MOST_CELLS`` cells, a few kilobytes of which can claim any number.

    Raises UserError where it cannot be read, is larger, or lacks one of the ``columns``.
    """
    import pandas as pd
    from pyarrow.parquet import read_metadata

    try:
        found = read_metadata(path)
        if found.num_rows * max(found.num_columns, 1) > MOST_CELLS:
            raise UserError(f"{path} has {found.num_rows:,} rows, more than a table may have here.")
        return pd.read_parquet(path, columns=None if columns is None else list(columns))
    except UserError:
        raise
    except Exception as error:  # parsers fail in many ways, all meaning the same
        raise UserError(
            f"{path} cannot be read as a table ({first_line(error)}); make it again."
        ) from error


def check_fields(content: Any, check: Check, where: str, remedy: str) -> None:
    """Raises UserError, which ``where`` begins and ``remedy`` ends, unless ``content`` passes."""
    if wrong := check(content, ""):
        raise UserError(f"{where} does not fit: {wrong}; {remedy}.")


def a_whole(least: int = 0, most: int = LARGEST) -> Check:
    """A whole number within limits; true and false are none."""

    def holds(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most

    return _check(f"a whole number from {least} to {most}", holds)


def a_number(
    least: float | int = -math.inf, most: float | int = math.inf, *, above: bool = False
) -> Check:
    """A finite number within limits, with ``above`` not the least itself."""

    def holds(value: Any) -> bool:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        return -1e300 < value < 1e300 and least <= value <= most and not (above and value == least)

    said = f"above {least:g}" if above else f"from {least:g}" if math.isfinite(least) else ""
    said += f" to {most:g}" if math.isfinite(most) else ""
    return _check(f"a finite number {said}".rstrip(), holds)


def a_text(most: int = 10_000) -> Check:
    """Text of limited length that UTF-8 can hold, without NUL."""

    def holds(value: Any) -> bool:
        return isinstance(value, str) and len(value) <= most and "\0" not in value and _whole(value)

    return _check(f"text of at most {most:,} characters, none of them NUL,", holds)


def a_flag() -> Check:
    """true or false."""
    return _check("true or false", lambda value: isinstance(value, bool))


def one_of(*allowed: str) -> Check:
    """One of some words."""
    return _check(f"one of {', '.join(allowed)}", lambda v: isinstance(v, str) and v in allowed)


def or_null(check: Check) -> Check:
    """The same, or null."""
    return lambda value, name: None if value is None else check(value, name)


def a_list(check: Check, least: int = 0, most: int = 10_000_000) -> Check:
    """A list of limited length in which every entry passes."""
    length = f"{least}" if least == most else f"{least:,} to {most:,}"
    sized = _check(
        f"a list of {length} entries",
        lambda v: isinstance(v, list | tuple) and least <= len(v) <= most,
    )

    def complain(value: Any, name: str) -> str | None:
        if wrong := sized(value, name):
            return wrong
        found = (check(entry, f"{name}[{index}]") for index, entry in enumerate(value))
        return next((wrong for wrong in found if wrong), None)

    return complain


def an_object(
    required: Mapping[str, Check], optional: Mapping[str, Check] | None = None, more: bool = False
) -> Check:
    """A mapping with these keys; others only with ``more``, which are not looked at."""
    known = {**required, **(optional or {})}

    def complain(value: Any, name: str) -> str | None:
        if not isinstance(value, Mapping):
            return f"{name or 'it'} is {shown(value)} where key: value pairs belong"
        prefix = f"{name}." if name else ""
        if missing := [key for key in required if key not in value]:
            return f"{prefix}{missing[0]} is missing"
        for key, entry in value.items():
            if key not in known and not more:
                return f"{prefix}{shown(key)} is none of its keys ({', '.join(known)})"
            if key in known and (wrong := known[key](entry, f"{prefix}{key}")):
                return wrong
        return None

    return complain


def plain_data(value: Any, name: str, depth: int = DEEPEST) -> str | None:
    """A ``Check``: texts, finite numbers, true, false, null, and lists and mappings of them."""
    if depth == 0:
        return f"{name} is nested more than {DEEPEST} levels deep"
    if isinstance(value, Mapping):
        return next(
            (
                wrong
                for key, entry in value.items()
                if (wrong := a_text()(key, f"a key of {name}"))
                or (wrong := plain_data(entry, f"{name}.{key}", depth - 1))
            ),
            None,
        )
    if isinstance(value, list | tuple):
        entries = (plain_data(entry, f"{name}[{i}]", depth - 1) for i, entry in enumerate(value))
        return next((wrong for wrong in entries if wrong), None)
    if value is None or isinstance(value, bool):
        return None
    return (a_text(1_000_000) if isinstance(value, str) else a_number())(value, name)


def plain_object(value: Any, name: str) -> str | None:
    """A ``Check``: a mapping of plain data."""
    return an_object({}, more=True)(value, name) or plain_data(value, name)


def shown(value: Any) -> str:
    """A value as it may stand in a sentence: one line, and cut."""
    if isinstance(value, int) and value.bit_length() > 200:
        return "a number of more than 60 digits"
    if isinstance(value, Mapping | list | tuple) and len(value) > 3:
        return f"a {type(value).__name__} of {len(value)} entries"
    text = " ".join(_SHORT.repr(value).split())
    return text if len(text) <= 80 else f"{text[:79]}…"


def _check(allowed: str, holds: Callable[[Any], bool]) -> Check:
    return lambda value, name: (
        None if holds(value) else f"{name or 'it'} is {shown(value)} where {allowed} belongs"
    )


def _whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


BACKBONE_IDENTITY = an_object(
    {},
    {
        "family": a_text(200),
        "name": a_text(500),
        "weights": an_object(
            {},
            {"kind": a_text(50), "source": a_text(), "sha256": or_null(a_text(100))},
            more=True,
        ),
        "spec": plain_object,
        "transform": plain_object,
    },
    more=True,
)
"""What a recording, a dictionary or a head keeps of the model it comes from. Of the spec, who
rebuilds the model checks more."""

RECORDED_TOKENS = an_object(
    {"which": one_of("patch", "class", "registers", "all", "pooled", "embedding", "patches")},
    {"n_per_image": or_null(a_whole(1)), "positions": or_null(a_list(a_whole()))},
    more=True,
)
"""Which tokens were recorded, or a dictionary is for; the last three are features of heads."""


def remove_partials(folder: Path) -> None:
    """Removes what a killed process was writing with ``appearing_whole``, in a folder and two below it.

    Nobody else may be writing there.
    """
    for pattern in (".*.tmp", "*/.*.tmp", "*/*/.*.tmp"):
        for leftover in folder.glob(pattern):
            if re.search(r"\.\d+\.tmp$", leftover.name):
                leftover.unlink(missing_ok=True)


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_WORDS = (
    "No space left on device", "Disk quota exceeded", "File too large", "database or disk is full",
)  # fmt: skip


def full_disk(error: BaseException | None, path: str | Path | None = None) -> OSError | None:
    """The system's error where a full disk is behind this one, as libraries wrap it in their own.

    Args:
        path: what could not be written, where the caller knows it; the error itself may not know, or
            know a temporary file that was to be renamed.
    """
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        number = error.errno if isinstance(error, OSError) else None
        if number in FULL or any(words in str(error) for words in FULL_WORDS):
            own = None
            if isinstance(error, OSError):
                own = error.filename2 or error.filename
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path or own or "") or None)
        error = error.__cause__ or error.__context__
    return None
