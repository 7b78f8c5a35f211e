"""Which layout files are of, and what they say."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from saev.errors import UserError, first_line
from saev.interop import (
    dictionary_learning,
    msae,
    overcomplete,
    prisma,
    sae_lens,
    saev_upstream,
    sparsify,
    visaebench,
)
from saev.interop.foreign import Foreign
from saev.interop.weights_files import OpenFiles, find
from saev.sae.pretrained import CONFIG_NAME, WEIGHTS_NAME


class Layout(NamedTuple):
    """A layout's reader."""

    name: str
    claims: Callable[[OpenFiles], bool]
    read: Callable[[OpenFiles], Foreign]


_MODULES: dict[str, Any] = {
    "SAELens": sae_lens,
    "dictionary_learning": dictionary_learning,
    "sparsify": sparsify,
    "overcomplete": overcomplete,
    "ViT-Prisma or PatchSAE": prisma,
    "MSAE": msae,
    "ViSAEBench": visaebench,
    "upstream saev": saev_upstream,
}
LAYOUTS = tuple(Layout(name, module.claims, module.read) for name, module in _MODULES.items())


def is_ours(folder: Path) -> bool:
    """Whether a folder holds the two files that ``save_pretrained`` writes."""
    return (folder / CONFIG_NAME).is_file() and (folder / WEIGHTS_NAME).is_file()


def read_foreign(path: Path) -> Foreign:
    """What the files at a place say.

    Raises:
        UserError: no layout or several know them, or what a reader refuses.
    """
    found = find(path)
    return of_files(found)


def of_files(found: OpenFiles) -> Foreign:
    """The same of files that are open."""
    try:
        return _read(found)
    except UserError:
        raise
    except Exception as error:  # settings may hold anything where a number or a mapping belongs
        raise UserError(
            f"{found.where} has settings of a form that no layout known here writes "
            f"({first_line(error)}); get the dictionary again."
        ) from error


def _read(found: OpenFiles) -> Foreign:
    claimed = [layout for layout in LAYOUTS if layout.claims(found)]
    if len(claimed) > 1:
        names = " and of ".join(layout.name for layout in claimed)
        raise UserError(
            f"{found.where} could be of {names}: files of two layouts lie together; keep those of one."
        )
    if not claimed:
        held = ", ".join(map(str, list(found.tensors)[:6])) or "nothing"
        raise UserError(
            f"{found.where} is of no layout known here (it holds {held}): known are "
            f"{', '.join(layout.name for layout in LAYOUTS)}; the settings file may be missing beside it."
        )
    return claimed[0].read(found)
