"""Leaderboard: the seven numbers of several dictionaries on the same images."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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


class MeanRank(NamedTuple):
    """Mean place over the numbers that every dictionary has, 1 the best; nan where there is none."""

    value: float
    low: float
    high: float
    """95 % interval over images drawn with replacement, the same for all dictionaries."""


def mean_ranks(tables: Mapping[str, BenchmarkTable]) -> dict[str, MeanRank]:
    """By dictionary, the best first; ties are shared. A place says nothing of how far apart they are.

    A number without draws keeps its places in every draw.
    """
    from scipy.stats import rankdata

    places_me, drawn_mre = [], []
    for metric in SEVEN:
        cells = [one.numbers[metric.key][OWN].cell for one in tables.values()]
        values_e = np.array([one.value for one in cells])
        if np.isnan(values_e).any():
            continue
        places_me.append(rankdata(-metric.sign * values_e))
        draws = {len(one.drawn_r) for one in cells}
        if draws == {0} or len(draws) > 1:
            drawn_mre.append(places_me[-1][None])
        else:
            drawn_re = np.stack([one.drawn_r for one in cells], axis=1)
            drawn_mre.append(rankdata(-metric.sign * drawn_re, axis=1, nan_policy="omit"))
    if not places_me:
        return dict.fromkeys(tables, MeanRank(np.nan, np.nan, np.nan))
    n_draws = max(map(len, drawn_mre))
    drawn_re = np.mean([np.broadcast_to(one, (n_draws, len(tables))) for one in drawn_mre], axis=0)
    low_e, high_e = np.nanquantile(drawn_re, [0.025, 0.975], axis=0)
    ranks = {
        name: MeanRank(*map(float, row))
        for name, *row in zip(tables, np.mean(places_me, axis=0), low_e, high_e, strict=True)
    }
    return dict(sorted(ranks.items(), key=lambda item: item[1].value))


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
                "name": name, "mean_rank": rank.value, "mean_rank_low": rank.low,
                "mean_rank_high": rank.high, "metric": metric.key, "number": metric.number,
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
            {"name": name, "rank": number(rank.value), "rank_interval": _interval(rank[1:]),
             "where": where[name],
             "about": _about(tables[name]), "cells": _cells(tables[name])}
            for name, rank in ranks.items()
        ],
    })  # fmt: skip
    write_atomically(folder / "index.html", page)
    print_table(
        "ViSAEBench, the best mean rank first; * separates trained from untrained",
        ["", "dictionary", "mean rank", *(metric.number for metric in SEVEN)],
        [
            [name, where[name], f"{number(rank.value)} ({_interval(rank[1:])})", *(
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


def _interval(ends: tuple[float, float]) -> str | None:
    low, high = ends
    return None if np.isnan(low) else f"{number(low)} to {number(high)}"


def _cells(table: BenchmarkTable) -> list[dict[str, Any]]:
    cells = []
    for metric in SEVEN:
        own = table.numbers[metric.key][OWN]
        cells.append({
            "value": number(own.cell.value), "reason": own.reason,
            "interval": _interval(own.cell.interval),
            "untrained": number(table.numbers[metric.key][UNTRAINED].cell.value),
            "separates": table.verdicts[metric.key].separates,
            "answer": separates_in_words(table, metric.key),
        })  # fmt: skip
    return cells
