"""Settings of the benchmark, and what they name: files, dictionaries."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from saev.comparison.members import letters
from saev.errors import UserError
from saev.metrics.visaebench.sibling_groups import sibling_groups


@dataclass(frozen=True)
class BenchmarkSettings:
    """What ``visaebench`` in conf/evaluate.yaml holds."""

    n_images: int | None
    pool_images: int
    n_bootstrap: int
    min_images: int
    ks: Sequence[int]
    siblings: str | None
    seed: int

    def __post_init__(self) -> None:
        if not self.ks:
            raise UserError("visaebench.ks must name at least one number of latents, got [].")
        if self.n_bootstrap < 40:
            raise UserError(
                "visaebench.n_bootstrap must be at least 40, or the ends of a 95 % interval are the "
                f"extremes, got {self.n_bootstrap}."
            )
        if self.siblings is not None and not Path(self.siblings).is_file():
            raise UserError(
                f"visaebench.siblings={self.siblings} is no file; give one of lines class<TAB>parent"
            )

    def groups(self, class_names: Sequence[str]) -> dict[str, list[int]] | None:
        """Parent → its classes, as ``siblings`` has them; None where no file is given.

        Raises:
            UserError: a line that says nothing, or a class that there is not.
        """
        if self.siblings is None:
            return None
        lines = Path(self.siblings).read_text(encoding="utf-8").splitlines()
        try:
            return sibling_groups(lines, class_names)
        except ValueError as error:
            raise UserError(f"visaebench.siblings={self.siblings}: {error}") from error


def entrants_of(saes: Sequence[str], names: Sequence[str] | None) -> dict[str, str]:
    """Name → dictionary, of a leaderboard; without names a, b, …

    Raises:
        UserError: fewer than two, or names that are not one each, twice, or none of a folder.
    """
    if len(saes) < 2:
        raise UserError("a leaderboard needs two or more dictionaries; give one as sae=DIR")
    names = letters(len(saes)) if names is None else names
    if len(names) != len(saes) or len(set(names)) != len(names):
        raise UserError(
            f"names must be {len(saes)} different ones, one for each of saes, got {names}"
        )
    for name in names:
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise UserError(
                f"names={name!r} becomes a folder; use letters, digits, points, hyphens and _"
            )
    return dict(zip(names, map(str, saes), strict=True))
