"""Label map: which column of a classifier is which class of an image source."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor


def match_labels(
    source_names: Sequence[str],
    column_names: Sequence[str],
    column_ids: Sequence[str] | None = None,
) -> Int64[Tensor, " n"] | None:
    """For every class of the source its column, -1 where there is none; None when none has one.

    A class matches by WordNet id ("n01440764") or by name: case, spaces, underscores and hyphens
    do not matter, and a column named "tench, Tinca tinca" answers to either. Names that stand for
    several columns ("crane") match none of them: only their ids tell them apart.
    """
    columns = _columns_by_name(column_names)
    columns |= {_plain(wnid): column for column, wnid in enumerate(column_ids or [])}
    matched = [columns.get(_plain(name), -1) for name in source_names]
    return None if all(column < 0 for column in matched) else torch.tensor(matched)


def _columns_by_name(column_names: Sequence[str]) -> dict[str, int]:
    parts = [name.split(",") for name in column_names]
    # from weak to strong: a synonym counts only where no class is called so
    synonyms = [(alias, c) for c, aliases in enumerate(parts) for alias in aliases[1:]]
    firsts = [(aliases[0], c) for c, aliases in enumerate(parts)]
    columns: dict[str, int] = {}
    whole = [(name, c) for c, name in enumerate(column_names) if "," in name]
    for named in (synonyms, firsts, whole):
        counts = Counter(_plain(name) for name, _ in named)
        for name, column in named:
            columns[_plain(name)] = column if counts[_plain(name)] == 1 else -1
    return columns


def _plain(name: str) -> str:
    return re.sub(r"[\s_\-]+", " ", name).strip().casefold()
