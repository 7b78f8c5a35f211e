"""Manifest of a folder of activation tars, and how its files are reached (docs/formats.md)."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from saev.errors import UserError
from saev.files import (
    BACKBONE_IDENTITY,
    RECORDED_TOKENS,
    a_list,
    a_number,
    a_text,
    a_whole,
    an_object,
    check_fields,
    one_of,
    or_null,
    parse_json,
    plain_object,
    shown,
    write_atomically,
)

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
PARTS_DIR = ".parts"
READ_BYTES = 1 << 20  # one megabyte: large enough that no stream is read or written in crumbs
DTYPES = ("float16", "float32")  # npy has no bfloat16
MOST_BYTES = 1 << 25
"""Of a manifest: a hundred thousand shards. Parsed it takes some twenty times as much memory."""
MOST_TOKENS = 10**11
REMEDY = "record the activations again, or get them again"


class Rows(NamedTuple):
    """What every sample of a recording must hold."""

    width: int
    dtype: str
    """One of ``DTYPES``."""


@dataclass(frozen=True)
class ShardInfo:
    """One tar, as it must be found on disk."""

    name: str
    split: str
    """"train" or "heldout"."""
    n_images: int
    n_tokens: int
    n_bytes: int
    sha256: str


@dataclass(frozen=True)
class Statistics:
    """Of the tokens of the training split; norms are L2, in the units of the activations."""

    n_tokens: int
    n_normal: int
    """Tokens with a norm of at most ``max_norm``."""
    median_norm: float
    """Of all tokens, to 0.125 % (from a histogram)."""
    max_norm: float | None
    """Largest norm of a normal token; None where every token is normal."""
    max_norm_multiple: float | None
    """``max_norm`` as a multiple of the median; None where every token is normal."""
    mean: list[float]
    """Per dimension, over normal tokens."""
    scale: float
    """So that E‖scale·(x − mean)‖² = d over normal tokens."""
    n_normal_per_shard: list[int]
    """Normal tokens of each training shard, in the manifest's order."""


_FINITE = a_number(-1e30, 1e30)
STATISTICS = an_object(
    {
        "n_tokens": a_whole(1, MOST_TOKENS),
        "n_normal": a_whole(1, MOST_TOKENS),
        "median_norm": a_number(0, 1e30, above=True),
        "max_norm": or_null(a_number(0, 1e30, above=True)),
        "max_norm_multiple": or_null(a_number(0, 1e30, above=True)),
        "mean": a_list(_FINITE, 1),
        "scale": a_number(0, 1e30, above=True),
        "n_normal_per_shard": a_list(a_whole(0, MOST_TOKENS)),
    }
)
FIELDS = an_object(
    {
        "id": a_text(1000),
        "backbone": BACKBONE_IDENTITY,
        "layer": a_whole(0, 10_000),
        "width": a_whole(1, 10**6),
        "grid": a_list(a_whole(1, 10_000), 2, 2),
        "token_names": a_list(a_text(100), 1, 10**6),
        "tokens": RECORDED_TOKENS,
        "dtype": one_of(*DTYPES),
        "images": plain_object,
        "transform": plain_object,
        "class_names": or_null(a_list(a_text())),
        "skipped": a_list(plain_object),
        "recording": plain_object,
        "shards": a_list(
            an_object(
                {
                    "name": a_text(255),
                    "split": one_of("train", "heldout"),
                    "n_images": a_whole(0, MOST_TOKENS),
                    "n_tokens": a_whole(0, MOST_TOKENS),
                    "n_bytes": a_whole(0, 1 << 50),
                    "sha256": a_text(100),
                }
            )
        ),
        "statistics": STATISTICS,
        "format_version": a_whole(1),
    }
)
"""Of ``manifest.json``, whoever wrote it."""


@dataclass(frozen=True)
class Manifest:
    """Everything one needs to know to read a folder of activation tars."""

    id: str
    """Name of the folder: backbone, layer, tokens, hash of what determines the content."""
    backbone: dict[str, Any]
    """family, name, weights (kind, source, sha256), spec."""
    layer: int
    width: int
    grid: list[int]
    """Patches down and across."""
    token_names: list[str]
    tokens: dict[str, Any]
    """which, n_per_image, and positions on the token axis."""
    dtype: str
    images: dict[str, Any]
    """Fingerprint of the image source."""
    transform: dict[str, Any]
    class_names: list[str] | None
    skipped: list[dict[str, Any]]
    """Broken images left out: image_id, reason."""
    recording: dict[str, Any]
    """seed, images_per_shard, precision."""
    shards: list[ShardInfo]
    statistics: Statistics
    format_version: int = FORMAT_VERSION

    @classmethod
    def read(cls, location: str | Path) -> Manifest:
        """The manifest of a folder, given as a path or an http(s):// or s3:// URL.

        Raises UserError when there is none, or it is damaged, or of another format version.
        """
        path = join(location, MANIFEST_NAME)
        try:
            with open_read(path) as file:
                text = file.read(MOST_BYTES + 1)
        except FileNotFoundError:
            raise UserError(
                f"There is no {MANIFEST_NAME} in {location}: "
                "either the path is wrong or the recording is not finished; run saev.record."
            ) from None
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error}); check the folder or address, and the network."
            ) from error
        if len(text) > MOST_BYTES:
            raise UserError(f"{path} has more than {MOST_BYTES:,} bytes; {REMEDY}.")
        fields = parse_json(text, path, REMEDY)
        if (version := fields.get("format_version")) != FORMAT_VERSION:
            raise UserError(
                f"{path} has format version {shown(version)}, this program reads {FORMAT_VERSION}: "
                "record the activations again, or use the version of saev that wrote them."
            )
        check_fields(fields, FIELDS, path, REMEDY)
        fields["shards"] = [ShardInfo(**shard) for shard in fields["shards"]]
        fields["statistics"] = Statistics(**fields["statistics"])
        manifest = cls(**fields)
        manifest.check(path)
        return manifest

    def check(self, where: str) -> None:
        """Raises UserError, which ``where`` begins, where one part contradicts another."""
        names: set[str] = set()
        for shard in self.shards:
            if Path(shard.name).name != shard.name or shard.name in ("..", ""):
                raise UserError(f"{where} names a shard outside its folder: {shown(shard.name)}.")
            if shard.name in names:
                raise UserError(f"{where} names the shard {shown(shard.name)} twice; {REMEDY}.")
            names.add(shard.name)
            if shard.n_tokens * self.width * (2 if self.dtype == "float16" else 4) > shard.n_bytes:
                raise UserError(
                    f"{where} says that {shown(shard.name)} holds {shard.n_tokens} tokens in "
                    f"{shard.n_bytes} bytes, which is too little room; {REMEDY}."
                )
        statistics_fit(self.statistics, self.of_split("train"), self.width, where)

    @property
    def rows(self) -> Rows:
        """What every sample holds."""
        return Rows(self.width, self.dtype)

    def write(self, folder: str | Path) -> None:
        """Writes ``manifest.json`` into a local folder, all of it or nothing."""
        write_json(Path(folder) / MANIFEST_NAME, self.to_json())

    def to_json(self) -> str:
        """The text of ``manifest.json``: the same bytes for the same content."""
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n"

    @property
    def sha256(self) -> str:
        """Of the text of ``manifest.json``: names this recording in exports and runs."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def of_split(self, split: str) -> list[ShardInfo]:
        """The shards of "train" or "heldout", in order."""
        return [shard for shard in self.shards if shard.split == split]


def statistics_fit(statistics: Statistics, train: list[ShardInfo], width: int, where: str) -> None:
    """Raises UserError, which ``where`` begins, unless they can be those of these training shards."""
    per_shard = statistics.n_normal_per_shard
    wrong = None
    if len(statistics.mean) != width:
        wrong = f"a mean of {len(statistics.mean)} numbers for a width of {width}"
    elif len(per_shard) != len(train):
        wrong = f"{len(per_shard)} counts of normal tokens for {len(train)} training shards"
    elif any(n > shard.n_tokens for n, shard in zip(per_shard, train, strict=True)):
        wrong = "more normal tokens than there are in a shard"
    elif sum(per_shard) != statistics.n_normal:
        wrong = f"n_normal {statistics.n_normal} where its shards hold {sum(per_shard)}"
    elif sum(shard.n_tokens for shard in train) != statistics.n_tokens:
        wrong = f"n_tokens {statistics.n_tokens}, which is not the sum over the training shards"
    if wrong:
        raise UserError(f"{where} has statistics with {wrong}; {REMEDY}.")


def is_url(location: str | Path) -> bool:
    """Whether it is read through fsspec instead of the file system."""
    return "://" in str(location)


def join(location: str | Path, name: str) -> str:
    """Path or URL of a file in a folder of tars."""
    return f"{str(location).rstrip('/')}/{name}" if is_url(location) else str(Path(location) / name)


def open_read(path: str) -> io.BufferedReader:
    """A stream of bytes from a local file or a URL; raises OSError, FileNotFoundError if absent."""
    if not is_url(path):
        if Path(path).exists() and not Path(path).is_file():  # a pipe would be waited for
            raise OSError(errno.EINVAL, "it is no file", path)
        return Path(path).open("rb")
    import fsspec

    # http: one plain GET, since not every server answers range requests
    options: dict[str, Any] = {"block_size": 0} if path.startswith("http") else {}
    try:
        file = fsspec.open(path, "rb", **options).open()  # pyright: ignore
    except ImportError as error:
        raise UserError(
            f"{path} needs a package that is not installed ({error}); "
            "for s3:// run pip install 'saev-lightning[s3]'."
        ) from error
    except FileNotFoundError as error:
        if isinstance(error.__cause__, OSError):  # what fsspec makes of a server that is not there
            raise ConnectionError(error.__cause__) from error
        raise
    except OSError:
        raise
    except Exception as error:  # aiohttp's and botocore's errors share no base class with OSError
        raise OSError(f"{type(error).__name__}: {error}") from error
    return io.BufferedReader(file, READ_BYTES)  # pyright: ignore[reportArgumentType]


def write_json(path: Path, text: str) -> None:
    """A small file of a recording, whole or not at all.

    Raises UserError when the disk is full or the folder cannot be written.
    """
    try:
        write_atomically(path, text)
    except OSError as error:
        raise disk_error(error, path) from error


def require_space(folder: Path, n_bytes: int, what: str) -> None:
    """Raises UserError where the disk of ``folder``, which need not exist yet, has less than that free."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    if n_bytes > free:
        raise UserError(
            f"{what} takes about {n_bytes / 1e9:.3g} GB and the disk of {folder} has "
            f"{free / 1e9:.3g} GB free: free some space, or write elsewhere with paths.outputs=…"
        )


def disk_error(error: OSError, path: Path) -> UserError:
    """What to tell a user whose file could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"The disk is full: {path} could not be written; free some space and run the same "
            "command again, it continues after the last finished shard."
        )
    return UserError(f"{path} could not be written ({error.strerror or error}).")
