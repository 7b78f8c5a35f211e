"""Page of the benchmark, and the table on screen."""

from pathlib import Path
from typing import Any

import numpy as np

from saev.cli.console import print_table
from saev.evaluation.baselines.table import number
from saev.evaluation.visaebench.benchmark_arms import OWN
from saev.evaluation.visaebench.benchmark_table import BenchmarkTable
from saev.evaluation.visaebench.figures import FITTED, RANDOM, TRAINED, Bar, BarPanel, seven_figure
from saev.evaluation.visaebench.seven_numbers import SEVEN, BenchmarkMetric
from saev.files import write_atomically
from saev.pages.render import fill_template

TEMPLATE = Path(__file__).parent / "page.html.j2"
PICTURE = "numbers.png"


def write_benchmark_page(table: BenchmarkTable, folder: Path) -> None:
    """Writes ``index.html``, which opens from disk, and its figure."""
    panels = _panels(table)
    if panels:
        seven_figure(panels).savefig(folder / PICTURE, dpi=130)
    cfg = table.arms[0].sae.cfg
    page = fill_template(TEMPLATE, {
        "subject": f"{table.arms[0].backbone.name}, block {cfg.layer}",
        "images": ", ".join(f"{n:,} of {name}" for name, n in table.sources.items()),
        "left_out": table.share_left_out, "judge": table.judge, "picture": PICTURE if panels else None,
        "arms": [
            {"name": one.name, "about": one.about, "is_random": one.is_random,
             "d_sae": one.sae.cfg.d_sae} for one in table.arms
        ],
        "rows": [_row(table, metric) for metric in SEVEN],
    })  # fmt: skip
    write_atomically(folder / "index.html", page)


def print_benchmark(table: BenchmarkTable) -> None:
    """Prints the table, and below it why some numbers were not measured."""
    names = [one.name for one in table.arms]
    print_table(
        f"ViSAEBench on {next(iter(table.sources.values())):,} held-out images",
        ["", *names, "null", "separates trained from untrained"],
        [
            [_title(table, metric), *(number(table.numbers[metric.key][n].cell.value) for n in names),
             number(table.numbers[metric.key][OWN].null), separates_in_words(table, metric.key)]
            for metric in SEVEN
        ],
    )  # fmt: skip
    reasons = [
        [f"{metric.number} {metric.title}", reason]
        for metric in SEVEN
        if (reason := table.numbers[metric.key][OWN].reason)
    ]
    if reasons:
        print_table("Not measured", ["", "because"], reasons)


def separates_in_words(table: BenchmarkTable, key: str) -> str:
    """``yes``, ``no``, or a dash where one of both has no value; a yes names the other random ones
    that this dictionary is no better than."""
    separates, against = table.verdicts[key]
    if not separates:
        return "–" if separates is None else "no"
    as_good = [one.name for one in table.arms if one.is_random and against.get(one.name) is False]
    return ", ".join(["yes", *(f"but not from {name}" for name in as_good)])


def _title(table: BenchmarkTable, metric: BenchmarkMetric) -> str:
    circular = metric.key == "monosemanticity" and not table.judge.is_independent
    return f"{metric.number} {metric.title}" + (" (own backbone judges)" if circular else "")


def _row(table: BenchmarkTable, metric: BenchmarkMetric) -> dict[str, Any]:
    against = table.verdicts[metric.key].against
    cells = []
    for name, one in table.numbers[metric.key].items():
        low, high = one.cell.interval
        cells.append({
            "value": number(one.cell.value), "null": number(one.null), "reason": one.reason,
            "interval": None if np.isnan(low) else f"{number(low)} to {number(high)}",
            "beaten": against.get(name), "is_own": name == OWN,
        })  # fmt: skip
    return {
        "title": _title(table, metric), "sign": metric.sign, "cells": cells,
        "answer": separates_in_words(table, metric.key),
    }  # fmt: skip


def _panels(table: BenchmarkTable) -> list[BarPanel]:
    colours = {
        one.name: TRAINED if one.name == OWN else RANDOM if one.is_random else FITTED
        for one in table.arms
    }
    panels = []
    for metric in SEVEN:
        bars = [
            Bar(name, one.cell.value, one.cell.interval, one.null, colours[name])
            for name, one in table.numbers[metric.key].items()
            if one.reason is None
        ]
        arrow = "more is better" if metric.sign > 0 else "less is better"
        if bars:
            panels.append(BarPanel(f"{metric.number} {metric.title}\n{arrow}", bars))
    return panels
