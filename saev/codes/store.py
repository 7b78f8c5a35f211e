"""Code store: the folder of sparse codes, in files written whole or not at all.

    codes/codes.json            what the codes belong to, and the images in order
    codes/part-000000.safetensors …

An interrupted pass goes on at the first file that is missing, and several processes can share the
files out, so the tables made from them do not depend on how they were written.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from saev.codes.sparse_codes import CodePart, ImageCodes, per_image
from saev.errors import UserError
from saev.files import (
    a_list,
    a_text,
    a_whole,
    an_object,
    appearing_whole,
    check_fields,
    plain_object,
    write_atomically,
)

MANIFEST = "codes.json"
FORMAT_VERSION = 1
FIELDS = an_object(
    {
        "format_version": a_whole(1),
        "identity": plain_object,
        "n_latents": a_whole(1, 10**7),
        "n_tokens": a_whole(1, 10**6),
        "images_per_part": a_whole(1, 10**7),
        "image_ids": a_list(a_text()),
    },
    more=True,
)
"""Of the manifest, whoever wrote it."""
MAX_ENTRIES = 2**24
"""Codes held at once while tables are made: about 1 GB with the sorting."""


class CodeStore:
    """Sparse codes of a list of images on disk.

    Args:
        folder: where the files are; created by :meth:`create`.
        manifest: what ``codes.json`` holds.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.image_ids: list[str] = manifest["image_ids"]
        self.n_latents: int = manifest["n_latents"]
        self.n_tokens: int = manifest["n_tokens"]
        self.images_per_part: int = manifest["images_per_part"]

    @classmethod
    def create(
        cls,
        folder: Path,
        image_ids: Sequence[str],
        *,
        n_latents: int,
        n_tokens: int,
        identity: dict[str, Any],
        images_per_part: int = 256,
    ) -> "CodeStore":
        """Starts a folder, or goes on with the one that is there.

        Raises:
            UserError: the folder holds codes of another dictionary, of other images or settings.
        """
        manifest = {
            "format_version": FORMAT_VERSION,
            "identity": identity,
            "n_latents": n_latents,
            "n_tokens": n_tokens,
            "images_per_part": images_per_part,
            "image_ids": list(image_ids),
        }
        path = folder / MANIFEST
        if path.is_file():
            found = _read_json(path)
            if found != json.loads(json.dumps(manifest)):
                raise UserError(
                    f"{folder} holds codes of another dictionary, other images or other settings; "
                    "give another hydra.run.dir, or delete that folder"
                )
        else:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(manifest))
        return cls(folder, manifest)

    @classmethod
    def open(cls, folder: str | Path) -> "CodeStore":
        """The folder written by an earlier pass; UserError where there is none."""
        path = Path(folder) / MANIFEST
        if not path.is_file():
            raise UserError(f"{folder} holds no {MANIFEST}; run python -m saev.describe first")
        return cls(Path(folder), _read_json(path))

    @property
    def n_parts(self) -> int:
        return -(-len(self.image_ids) // self.images_per_part)

    @property
    def digest(self) -> str:
        """Short hash of what the codes belong to."""
        return hashlib.sha256(json.dumps(self.manifest, sort_keys=True).encode()).hexdigest()[:12]

    def images_of(self, part: int) -> range:
        """Positions in ``image_ids`` of one part's images."""
        first = part * self.images_per_part
        return range(first, min(first + self.images_per_part, len(self.image_ids)))

    def path(self, part: int) -> Path:
        return self.folder / f"part-{part:06d}.safetensors"

    def missing(self) -> list[int]:
        """Parts not written yet."""
        return [part for part in range(self.n_parts) if not self.path(part).is_file()]

    def write(self, part: int, codes: CodePart) -> None:
        """Writes one part whole or not at all; ValueError when its images are not this part's."""
        from safetensors.numpy import save_file

        if codes.n_images != len(self.images_of(part)) or codes.n_latents != self.n_latents:
            raise ValueError(
                f"part {part} takes {len(self.images_of(part))} images of {self.n_latents} latents, "
                f"got {codes.n_images} of {codes.n_latents}"
            )
        with appearing_whole(self.path(part)) as path:
            save_file({k: np.ascontiguousarray(v) for k, v in codes.arrays().items()}, path)

    def read(self, part: int) -> CodePart:
        """One part in memory; UserError naming the file when it is damaged."""
        from safetensors.numpy import load_file

        arrays = self._guarded(part, load_file)
        try:
            arrays["normal"] = arrays["normal"].astype(bool)
            codes = CodePart(n_tokens=self.n_tokens, **arrays)
            whole = codes.n_images == len(self.images_of(part))
            whole &= codes.n_latents == self.n_latents and codes.indptr[-1] == len(codes.row)
        except (KeyError, TypeError, IndexError) as error:
            raise self._damaged(part) from error
        if not whole:
            raise self._damaged(part)
        return codes

    def remove(self) -> None:
        """Deletes the files, and the folder where nothing else is in it."""
        for path in (*map(self.path, range(self.n_parts)), self.folder / MANIFEST):
            path.unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def parts(self) -> Iterator[tuple[range, CodePart]]:
        """Every part with the positions of its images, in order."""
        for part in range(self.n_parts):
            yield self.images_of(part), self.read(part)

    def embeddings(self) -> Float[np.ndarray, "b e"]:
        """Of every image, not normalised."""
        return np.concatenate([self._array(part, "embedding") for part in range(self.n_parts)])

    def logits(self) -> Float[np.ndarray, "b c"] | None:
        """Of the model's own classifier, float16; None where it has none."""
        found = [self._array(part, "logits") for part in range(self.n_parts)]
        return None if found[0] is None else np.concatenate(found)

    def normal(self) -> Bool[np.ndarray, "b p"]:
        """Tokens that the dictionary answers for."""
        return np.concatenate([self._array(part, "normal") for part in range(self.n_parts)]).astype(
            bool
        )

    def chunks(self, max_entries: int = MAX_ENTRIES) -> Iterator[tuple[int, int]]:
        """Ranges of latents whose codes fit into memory together; at least one latent each."""
        counts = np.zeros(self.n_latents, np.int64)
        for part in range(self.n_parts):
            counts += np.diff(self._array(part, "indptr"))
        first, held = 0, 0
        for latent, count in enumerate(counts):
            if held and held + count > max_entries:
                yield first, latent
                first, held = latent, 0
            held += int(count)
        yield first, self.n_latents

    def token_codes(
        self, first: int, last: int
    ) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Latent, row and code of latents ``first`` to ``last`` (excluded), sorted by latent and row.

        A row counts position of the image · n_tokens + token over all images.
        """
        parts = [self._slice(part, first, last) for part in range(self.n_parts)]
        counts = np.stack([np.diff(indptr) for indptr, _, _ in parts])  # parts × latents
        total = int(counts.sum())
        row, value = np.empty(total, np.int64), np.empty(total, np.float32)
        # where each part's codes of each latent begin: latents in order, within one the parts
        starts = (counts.T.ravel().cumsum() - counts.T.ravel()).reshape(counts.T.shape).T
        for (indptr, part_row, part_value), count, start in zip(parts, counts, starts, strict=True):
            place = np.arange(len(part_row)) + np.repeat(start - (indptr[:-1] - indptr[0]), count)
            row[place], value[place] = part_row, part_value
        return np.repeat(np.arange(first, last), counts.sum(0)), row, value

    def image_codes(self, first: int = 0, last: int | None = None) -> ImageCodes:
        """Codes per image of latents ``first`` to ``last`` (excluded), by position of the image."""
        last = self.n_latents if last is None else last
        return per_image(*self.token_codes(first, last), self.n_tokens)

    def image_map(self, image: int, latents: Int[np.ndarray, " k"]) -> Float[np.ndarray, "k p"]:
        """Dense codes of some latents on one image's tokens."""
        part, local = divmod(image, self.images_per_part)
        maps = np.zeros((len(latents), self.n_tokens), np.float32)
        low, high = local * self.n_tokens, (local + 1) * self.n_tokens
        codes = self._cached(part)
        for index, latent in enumerate(latents):
            begin, end = codes.indptr[latent], codes.indptr[latent + 1]
            rows = codes.row[begin:end]
            inside = slice(*np.searchsorted(rows, [low, high]))
            maps[index, rows[inside] - low] = codes.value[begin:end][inside]
        return maps

    def _slice(self, part: int, first: int, last: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        from safetensors import safe_open

        def read(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            with safe_open(path, "np") as file:
                indptr = file.get_slice("indptr")[first : last + 1]
                begin, end = int(indptr[0]), int(indptr[-1])
                row = file.get_slice("row")[begin:end].astype(np.int64)
                value = file.get_slice("value")[begin:end]
            return indptr, row, value

        indptr, row, value = self._guarded(part, read)
        return indptr, row + self.images_of(part).start * self.n_tokens, value

    def _array(self, part: int, name: str) -> Any:
        from safetensors import safe_open

        def read(path: Path) -> np.ndarray | None:
            with safe_open(path, "np") as file:
                return file.get_tensor(name) if name in file.keys() else None  # noqa: SIM118

        return self._guarded(part, read)

    def _cached(self, part: int) -> CodePart:
        if getattr(self, "_last", (None, None))[0] != part:
            self._last = part, self.read(part)
        return self._last[1]

    def _guarded(self, part: int, read: Any) -> Any:
        from safetensors import SafetensorError

        path = self.path(part)
        if not path.is_file():
            raise UserError(f"{path} is missing; run python -m saev.describe again to finish it")
        try:
            return read(path)
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise self._damaged(part) from error

    def _damaged(self, part: int) -> UserError:
        return UserError(f"{self.path(part)} is damaged; delete it and run the command again")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format_version"] > FORMAT_VERSION:
            raise UserError(f"{path} was written by a newer saev; update saev")
        check_fields(found, FIELDS, str(path), "delete its folder and describe again")
        return found
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is damaged; delete its folder and describe again") from error
