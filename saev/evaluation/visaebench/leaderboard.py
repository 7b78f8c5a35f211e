"""Leaderboard: the seven numbers of several dictionaries on the same images."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saev.cli.console import print_table
from saev.evaluation.baselines.table import number
from saev.evaluation.visaebench.benchmark_arms import OWN, UNTRAINED
from saev.evaluation.visaebench.benchmark_files import benchmark_metrics
from saev.evaluation.visaebench.benchmark_table import BenchmarkTable
from saev.evaluation.visaebench.page import separates_in_words
from saev.evaluation.visaebench.seven_numbers import SEVEN
from saev.files import write_atomically, write_table
from saev.pages.render import fill_template

if TYPE_CHECKING:
    import pandas as pd

TEMPLATE = Path(__file__).parent / "leaderboard.html.j2"


def mean_ranks(tables: Mapping[str, BenchmarkTable]) -> dict[str, float]:
    """Mean place over the numbers that every dictionary has, 1 the best, ties shared; the best first.

    nan where no number is there of all of them. A place says nothing of how far apart they are.
    """
    from scipy.stats import rankdata

    places = []
    for metric in SEVEN:
        values = np.array([one.numbers[metric.key][OWN].cell.value for one in tables.values()])
        if not np.isnan(values).any():
            places.append(rankdata(-metric.sign * values))
    means = np.mean(places, axis=0) if places else np.full(len(tables), np.nan)
    ranked = dict(zip(tables, map(float, means), strict=True))
    return dict(sorted(ranked.items(), key=lambda item: item[1])) if places else ranked


def leaderboard_rows(tables: Mapping[str, BenchmarkTable]) -> "pd.DataFrame":
    """One row per dictionary and number, the best dictionary first."""
    import pandas as pd

    rows = []
    for name, rank in mean_ranks(tables).items():
        table = tables[name]
        for metric in SEVEN:
            own, untrained = (table.numbers[metric.key][arm] for arm in (OWN, UNTRAINED))
            low, high = own.cell.interval
            rows.append({
                "name": name, "mean_rank": rank, "metric": metric.key, "number": metric.number,
                "value": own.cell.value, "low": low, "high": high, "null": own.null,
                "untrained": untrained.cell.value,
                "separates": table.verdicts[metric.key].separates, "reason": own.reason,
            })  # fmt: skip
    return pd.DataFrame(rows)


def leaderboard_metrics(tables: Mapping[str, BenchmarkTable]) -> dict[str, float]:
    """``visaebench/<name>/…``, else as :func:`benchmark_metrics`."""
    return {
        key.replace("visaebench/", f"visaebench/{name}/"): value
        for name, table in tables.items()
        for key, value in benchmark_metrics(table).items()
    }


def write_leaderboard(
    tables: Mapping[str, BenchmarkTable], where: Mapping[str, str], folder: Path
) -> None:
    """Writes ``leaderboard.csv``, ``leaderboard.parquet`` and ``index.html``, which leads to the pages
    of the dictionaries; prints it."""
    rows = leaderboard_rows(tables)
    for end in ("csv", "parquet"):
        write_table(rows, folder / f"leaderboard.{end}")
    ranks = mean_ranks(tables)
    first = next(iter(tables.values()))
    page = fill_template(TEMPLATE, {
        "metrics": SEVEN,
        "images": ", ".join(f"{n:,} of {name}" for name, n in first.sources.items()),
        "entrants": [
            {"name": name, "rank": number(rank), "where": where[name],
             "about": _about(tables[name]), "cells": _cells(tables[name])}
            for name, rank in ranks.items()
        ],
    })  # fmt: skip
    write_atomically(folder / "index.html", page)
    print_table(
        "ViSAEBench, the best mean rank first; * separates trained from untrained",
        ["", "dictionary", "mean rank", *(metric.number for metric in SEVEN)],
        [
            [name, where[name], number(rank), *(
                cell["value"] + (" *" if cell["separates"] else "") for cell in _cells(tables[name])
            )]
            for name, rank in ranks.items()
        ],
    )  # fmt: skip


def _about(table: BenchmarkTable) -> str:
    cfg = table.arms[0].sae.cfg
    return (
        f"{table.arms[0].backbone.name}, block {cfg.layer}, {cfg.activation}, {cfg.d_sae} latents"
    )


def _cells(table: BenchmarkTable) -> list[dict[str, Any]]:
    cells = []
    for metric in SEVEN:
        own = table.numbers[metric.key][OWN]
        low, high = own.cell.interval
        cells.append({
            "value": number(own.cell.value), "reason": own.reason,
            "interval": None if np.isnan(low) else f"{number(low)} to {number(high)}",
            "untrained": number(table.numbers[metric.key][UNTRAINED].cell.value),
            "separates": table.verdicts[metric.key].separates,
            "answer": separates_in_words(table, metric.key),
        })  # fmt: skip
    return cells
