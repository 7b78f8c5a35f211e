"""Files of the benchmark: a row per number and dictionary, what they are made of, and metrics."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saev.evaluation.visaebench.benchmark_arms import OWN
from saev.evaluation.visaebench.benchmark_table import BenchmarkTable
from saev.evaluation.visaebench.settings import BenchmarkSettings
from saev.evaluation.visaebench.seven_numbers import SEVEN
from saev.files import write_atomically, write_table

if TYPE_CHECKING:
    import pandas as pd


def benchmark_rows(table: BenchmarkTable) -> "pd.DataFrame":
    """One row per number and dictionary, in the order of the table."""
    import pandas as pd

    rows = []
    for metric in SEVEN:
        for name, one in table.numbers[metric.key].items():
            low, high = one.cell.interval
            rows.append({
                "metric": metric.key, "number": metric.number, "dictionary": name,
                "value": one.cell.value, "low": low, "high": high, "null": one.null,
                "separates": table.verdicts[metric.key].separates,
                "sae_is_better": table.verdicts[metric.key].against.get(name),
                "reason": one.reason,
            })  # fmt: skip
    return pd.DataFrame(rows)


def write_benchmark(table: BenchmarkTable, settings: BenchmarkSettings, folder: Path) -> None:
    """Writes ``table.parquet``, ``table.csv`` and ``visaebench.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = benchmark_rows(table)
    for end in ("csv", "parquet"):
        write_table(rows, folder / f"table.{end}")
    content = {
        "benchmark": "ViSAEBench 0.1.0",
        "settings": asdict(settings) | {"ks": list(settings.ks)},
        "images": table.sources,
        "share_of_patches_left_out": table.share_left_out,
        "judge": table.judge._asdict(),
        "metrics": {metric.key: _metric(table, metric.key) for metric in SEVEN},
    }
    text = json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(folder / "visaebench.json", text + "\n")


def benchmark_metrics(table: BenchmarkTable) -> dict[str, float]:
    """``visaebench/<metric>``, the same of other dictionaries as ``visaebench/<metric>_<dictionary>``.

    Also ``…_null``, and ``…_separates``, 1 for yes and 0 for no. What was not measured is left out.
    """
    found = {}
    for metric in SEVEN:
        key, numbers = f"visaebench/{metric.key}", table.numbers[metric.key]
        found |= {
            key if name == OWN else f"{key}_{name}": n.cell.value for name, n in numbers.items()
        }
        found[f"{key}_null"] = numbers[OWN].null
        separates = table.verdicts[metric.key].separates
        found[f"{key}_separates"] = np.nan if separates is None else float(separates)
    return {name: float(value) for name, value in found.items() if not np.isnan(value)}


def _metric(table: BenchmarkTable, key: str) -> dict[str, Any]:
    return {
        "separates_trained_from_untrained": table.verdicts[key].separates,
        "dictionaries": {
            name: {
                "value": one.cell.value,
                "interval": list(one.cell.interval),
                "null": one.null,
                "reason": one.reason,
                **one.details,
            }
            for name, one in table.numbers[key].items()
        },
    }


def _plain(value: Any) -> Any:
    """As JSON has it: no nan, no numpy."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value
