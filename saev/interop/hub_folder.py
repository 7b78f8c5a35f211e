"""What goes to the hub: our two files, other libraries' beside them, and a card with its numbers."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saev.errors import UserError
from saev.files import read_json, write_atomically
from saev.interop.write_dictionary_learning import write_dictionary_learning
from saev.interop.write_sae_lens import write_sae_lens
from saev.pages.render import fill_template
from saev.sae import SparseAutoencoder
from saev.sae.pretrained import CONFIG_NAME, WEIGHTS_NAME, upload_folder

CARD_NAME = "README.md"
TEMPLATE = Path(__file__).parent / "hub_card.md.j2"
BESIDE = {"saelens": write_sae_lens, "dictionary_learning": write_dictionary_learning}
"""Name of the folder → what writes it."""
ROWS = {
    "explained variance": ("val/explained_variance", "untrained/explained_variance"),
    "NMSE": ("val/nmse", "untrained/nmse"),
    "L0": ("val/l0", "untrained/l0"),
    "dead latents": ("val/dead_fraction", "untrained/dead_fraction"),
    "dense latents": ("val/dense_fraction", "untrained/dense_fraction"),
    "KL to the clean model": ("fidelity/kl/reconstructed", "fidelity/kl/untrained"),
    "agreement with the clean model": (
        "fidelity/agreement/reconstructed", "fidelity/agreement/untrained",
    ),
}  # fmt: skip
"""Of the card: title → metric of the dictionary, and of an untrained one of the same form."""


def check_repo_id(repo_id: str) -> None:
    """Raises UserError unless it is ``owner/name``."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
        raise UserError(f"push={repo_id!r} is no repository of the hub; give owner/name")


def check_beside(beside: Sequence[str]) -> None:
    """Raises UserError unless all are formats that can lie beside ours."""
    if unknown := sorted(set(beside) - set(BESIDE)):
        raise UserError(f"beside={unknown[0]!r} is not one of {', '.join(BESIDE)}")


def write_hub_folder(
    sae: SparseAutoencoder, folder: Path, repo_id: str | None = None,
    beside: Sequence[str] = (), metrics: Mapping[str, Any] | None = None,
) -> list[str]:  # fmt: skip
    """Writes our files, those of ``beside`` in folders of these names, and ``README.md``.

    Args:
        repo_id: where it will lie on the hub, for the lines that open it.
        metrics: of ``metrics.json`` of an evaluation; those that the card knows are shown.

    Returns:
        What other formats cannot hold, a sentence each.

    Raises:
        UserError: an unknown format, or one that cannot represent the dictionary.
    """
    check_beside(beside)
    said = [f"{name}/: {line}" for name in beside for line in BESIDE[name](sae, folder / name)]
    sae.save_pretrained(folder)
    found = metrics or {}
    rows = [
        (title, found.get(own), found.get(untrained))
        for title, (own, untrained) in ROWS.items() if _is_number(found.get(own))
    ]  # fmt: skip
    card = fill_template(TEMPLATE, {
        "name": repo_id or folder.name, "where": repo_id or str(folder), "is_on_hub": bool(repo_id),
        "cfg": sae.cfg, "beside": list(beside), "rows": rows,
    })  # fmt: skip
    write_atomically(folder / CARD_NAME, card)
    return said


def metrics_beside(path: str | Path | None, sae: Any) -> dict[str, Any] | None:
    """Of a file or a run folder; where none is given, of the run in whose folder the dictionary lies.

    Raises:
        UserError: the path that was given holds no metrics.
    """
    if path is not None:
        given = Path(path).expanduser()
        return read_json(given / "metrics.json" if given.is_dir() else given, "give a run's folder")
    run = Path(str(sae)).expanduser().parent / "metrics.json"
    return read_json(run, "set metrics=") if run.is_file() else None


def push_folder(folder: Path, repo_id: str, private: bool, beside: Sequence[str] = ()) -> str:
    """Uploads what ``write_hub_folder`` wrote, and nothing else that lies there; the repository's address.

    Raises:
        UserError: no ``owner/name``, or a hub that refuses.
    """
    check_repo_id(repo_id)
    written = [CONFIG_NAME, WEIGHTS_NAME, CARD_NAME, *(f"{name}/*" for name in beside)]
    return upload_folder(folder, repo_id, private, written)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
