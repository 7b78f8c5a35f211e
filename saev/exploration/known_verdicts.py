"""Verdicts of earlier experiments: which rung the latents of this dictionary have reached."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from saev.errors import UserError
from saev.files import (
    a_flag,
    a_list,
    a_whole,
    an_object,
    check_fields,
    parse_json,
    read_json,
    read_whole,
)
from saev.intervention.judge.rungs import RUNGS, highest_rung
from saev.sae import SparseAutoencoder
from saev.sae.weights_digest import weights_sha256

REMEDY = "give the run folder of saev.intervene"
_VERDICT = an_object(
    {"latents": a_list(a_whole(), 1), "rungs": an_object({}, dict.fromkeys(RUNGS, an_object(
        {"holds": a_flag()}, more=True
    )))},
    more=True,
)  # fmt: skip


def read_rungs(folder: str | Path | None, sae: SparseAutoencoder) -> dict[int, str]:
    """What :func:`rungs_in_words` says of the experiments in a folder.

    Args:
        folder: run folder of ``saev.intervene``, its ``report``, or a folder of such run folders; None:
            nothing is known.
        sae: the dictionary; reports of others are passed over.

    Raises:
        UserError: no report lies there, none is of this dictionary, or one cannot be read.
    """
    if folder is None:
        return {}
    reports = sorted(file.parent for file in Path(folder).rglob("verdict.json"))
    if not reports:
        raise UserError(f"{folder} holds no verdict.json; {REMEDY}")
    own = weights_sha256(sae)
    mine = [report for report in reports if _dictionary(report) == own]
    if not mine:
        raise UserError(
            f"none of the {len(reports)} reports in {folder} is of this dictionary; {REMEDY} that tested it"
        )
    return rungs_in_words([one for report in mine for one in _verdicts(report / "verdict.json")])


def rungs_in_words(tested: Iterable[tuple[Sequence[int], str | None]]) -> dict[int, str]:
    """Latent → the highest rung that it has reached in any experiment, "none" where no rung holds.

    ``tested`` are latents that were edited together, and the highest rung of their verdict. A rung of
    several latents is no rung of each alone, and says so.
    """
    best: dict[int, tuple[int, int]] = {}
    for latents, rung in tested:
        height = -1 if rung is None else list(RUNGS).index(rung)
        for latent in latents:
            best[latent] = max(best.get(latent, (-1, -len(latents))), (height, -len(latents)))
    names = ["none", *RUNGS]
    return {
        latent: names[height + 1] + (f" (with {-less - 1} more)" if less < -1 else "")
        for latent, (height, less) in best.items()
    }


def _dictionary(report: Path) -> Any:
    return read_json(report / "registered.json", REMEDY).get("dictionary")


def _verdicts(file: Path) -> list[tuple[list[int], str | None]]:
    """Latents and highest rung of every verdict in a file."""
    content = parse_json(b'{"verdicts": ' + read_whole(file, REMEDY) + b"}", str(file), REMEDY)
    check_fields(content, an_object({"verdicts": a_list(_VERDICT)}), str(file), REMEDY)
    return [
        (one["latents"], highest_rung({name: rung["holds"] for name, rung in one["rungs"].items()}))
        for one in content["verdicts"]
    ]
