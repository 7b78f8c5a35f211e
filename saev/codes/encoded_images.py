"""Codes of images in memory, and the two files they are saved as: a sparse matrix, a long table.

Shapes: `b` images, `p` tokens that the dictionary reads of each, `s` latents.
"""

import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from scipy import sparse

from saev.errors import UserError
from saev.files import appearing_whole

if TYPE_CHECKING:
    import pandas as pd

FORMAT_VERSION = 1
METADATA = b"saev.codes"
"""Key of the Parquet file's metadata: what the rows alone do not say, as JSON."""


@dataclass(frozen=True)
class EncodedImages:
    """Codes of every image at every token that the dictionary reads."""

    codes: sparse.csr_matrix = field(repr=False)
    """(b·p, s): the tokens of an image stand together, patches row-major."""
    image_ids: list[str] = field(repr=False)
    """Of the source, or the position in the list that was given."""
    positions: list[int]
    """Where each token of an image stands on the model's token axis (prefix tokens, then patches)."""
    token_names: list[str]
    """What each of them is: "class", "register", "patch", …"""
    grid: tuple[int, int]
    """Patches down and across."""

    def __repr__(self) -> str:
        n_rows, n_latents = self.shape
        return (
            f"EncodedImages({len(self.image_ids):,} images × {self.n_tokens} tokens × "
            f"{n_latents:,} latents, {self.codes.nnz / n_rows:.1f} active a token)"
        )

    @property
    def n_tokens(self) -> int:
        """Tokens per image."""
        return len(self.positions)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows (a token each) and latents."""
        n_rows, n_latents = self.codes.shape  # pyright: ignore[reportGeneralTypeIssues]
        return n_rows, n_latents

    def of(self, image: int | str) -> Float[np.ndarray, "p s"]:
        """Dense codes of one image, by position or id."""
        place = self.image_ids.index(image) if isinstance(image, str) else image
        return self.codes[place * self.n_tokens : (place + 1) * self.n_tokens].toarray()

    def per_image(self) -> Float[np.ndarray, "b s"]:
        """The largest code of each latent on each image."""
        parts = [
            self.codes[first : first + self.n_tokens].max(0).toarray()
            for first in range(0, self.shape[0], self.n_tokens)
        ]
        return np.concatenate(parts)

    def to_frame(self) -> "pd.DataFrame":
        """A row for each code that is not 0: ``image_id``, ``token`` (its place among the tokens of the
        image, from 0), ``latent``, ``code``."""
        import pandas as pd

        found = self.codes.tocoo()
        return pd.DataFrame(
            {
                "image_id": np.asarray(self.image_ids, dtype=object)[found.row // self.n_tokens],
                "token": found.row % self.n_tokens,
                "latent": found.col,
                "code": found.data,
            }
        )

    def to_parquet(self, path: str | Path) -> Path:
        """Writes :meth:`to_frame` as Parquet; what rows do not say stands in the file's metadata.

        Raises:
            UserError: the name ends in something else than .parquet.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = _named(path, ".parquet")
        table = pa.Table.from_pandas(self.to_frame(), preserve_index=False)
        own = json.dumps({"format_version": FORMAT_VERSION, "n_latents": self.shape[1],
                          "image_ids": self.image_ids, "positions": self.positions,
                          "token_names": self.token_names, "grid": self.grid})  # fmt: skip
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), METADATA: own})
        with appearing_whole(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")
        return path

    def save(self, path: str | Path) -> Path:
        """Writes the matrix and what its rows are as one ``.npz``; no pickles.

        ``scipy.sparse.load_npz`` reads the matrix and ``numpy.load`` the rest, without this library;
        docs/formats.md lists the arrays.

        Raises:
            UserError: the name ends in something else than .npz.
        """
        path = _named(path, ".npz")
        own = {
            "image_ids": np.array(self.image_ids, dtype=np.str_),
            "positions": np.array(self.positions, dtype=np.int64),
            "token_names": np.array(self.token_names, dtype=np.str_),
            "grid": np.array(self.grid, dtype=np.int64),
            "format_version": np.array(FORMAT_VERSION),
        }
        matrix = {  # the names of scipy.sparse.save_npz
            "format": np.array(b"csr"), "shape": np.array(self.shape), "indptr": self.codes.indptr,
            "indices": self.codes.indices, "data": self.codes.data,
        }  # fmt: skip
        with appearing_whole(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **matrix, **own)
        return path

    @classmethod
    def load(cls, path: str | Path) -> "EncodedImages":
        """Reads what :meth:`save` wrote.

        Raises:
            UserError: nothing there, another file, a damaged one, or a newer format.
        """
        remedy = "save the codes again"
        try:
            with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as found:
                if int(found["format_version"]) != FORMAT_VERSION:
                    raise UserError(
                        f"{path} has format version {int(found['format_version'])} and this saev "
                        f"reads {FORMAT_VERSION}; use the saev that wrote it"
                    )
                parts = (found["data"], found["indices"], found["indptr"])
                codes = sparse.csr_matrix(parts, shape=tuple(found["shape"].tolist()))
                codes.check_format()
                ids, names = found["image_ids"].tolist(), found["token_names"].tolist()
                positions, (down, across) = found["positions"].tolist(), found["grid"].tolist()
        except UserError:
            raise
        except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{path} holds no codes that can be read ({error}); {remedy}"
            ) from error
        read = cls(codes, ids, positions, names, (down, across))
        if read.shape[0] != len(ids) * len(positions) or len(names) != len(positions):
            raise UserError(
                f"{path} has {read.shape[0]} rows for {len(ids)} images of {len(positions)} tokens; "
                f"{remedy}"
            )
        return read


def _named(path: str | Path, suffix: str) -> Path:
    path = Path(path)
    if path.suffix != suffix:
        raise UserError(f"{path} must end in {suffix}; give another name")
    return path
