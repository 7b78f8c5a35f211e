"""A dictionary from one layout into another."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from saev.errors import UserError
from saev.interop.open_any import opened
from saev.interop.write_dictionary_learning import write_dictionary_learning
from saev.interop.write_sae_lens import write_sae_lens
from saev.sae import SparseAutoencoder


def _write_ours(sae: SparseAutoencoder, folder: Path) -> list[str]:
    sae.save_pretrained(folder)
    return []


WRITERS: dict[str, Callable[[SparseAutoencoder, Path], list[str]]] = {
    "saev": _write_ours,
    "saelens": write_sae_lens,
    "dictionary_learning": write_dictionary_learning,
}


class Converted(NamedTuple):
    """What was read and written."""

    sae: SparseAutoencoder
    layout: str
    """Of what was read; "saev" for ours."""
    said: list[str]
    """What is to be known of it, a sentence each."""


def convert_sae(
    sae: str | Path | Any,
    out: str | Path,
    to: str = "saev",
    *,
    overwrite: bool = False,
    **choices: Any,
) -> Converted:
    """Writes a dictionary of any layout, from any place, into the folder ``out``.

    Args:
        sae: as for ``open_sae``, whose other arguments are the ``choices``.
        to: "saev", "saelens" or "dictionary_learning".
        overwrite: write into a folder that holds files already.

    Raises:
        UserError: what ``open_sae`` raises, a folder that is not empty, or what the other format cannot
            represent.
    """
    if to not in WRITERS:
        raise UserError(f"to={to!r} is not one of {', '.join(WRITERS)}")
    folder = Path(out).expanduser()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not overwrite):
        raise UserError(f"{folder} is not empty; give another out=DIR, or overwrite=true")
    found = opened(sae, **choices)
    said = [*found.said, *WRITERS[to](found.sae, folder)]
    return Converted(found.sae, found.layout, said)
