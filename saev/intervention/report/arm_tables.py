"""Tables of the page: what every arm changes, at the tested setting and at others."""

from typing import TYPE_CHECKING, Any

from saev.intervention.hypothesis import ARMS
from saev.intervention.report.page_text import ARM_TEXTS
from saev.intervention.report.tradeoff_figure import STYLES
from saev.intervention.result import ExperimentResult

if TYPE_CHECKING:
    import pandas as pd


def arm_rows(summary: "pd.DataFrame", outcome: ExperimentResult) -> list[dict[str, str]]:
    """Mean and standard deviation over concepts at the tested setting."""
    file, n = outcome.setting.file, outcome.plan.n
    summary = summary[summary.amount == 1]
    here = summary[(summary.n_latents.isin([n, 0])) & (summary.scale.isin([file.scale, 0.0]))]
    rows = []
    for name, (what, why) in ARM_TEXTS.items():
        arm = here[here.arm == name]
        if name != "reconstruction":
            arm = arm[(arm.n_latents == n) & (arm.scale == file.scale)]
        if len(arm):
            rows.append(
                {"name": name, "what": what, "why": why,
                 "target": _spread(arm.target_change), "other": _spread(arm.other_change)}
            )  # fmt: skip
    return rows


def _spread(values: "pd.Series") -> str:
    deviation = float(values.std()) if len(values) > 1 else 0.0
    return f"{values.mean():.1f} ± {deviation:.1f}"


def setting_blocks(summary: "pd.DataFrame", outcome: ExperimentResult) -> list[dict[str, Any]]:
    """A block per number of latents: arms × doses."""
    table = outcome.setting.file.table
    if not table.scales:
        return []
    blocks = []
    for n in table.n_latents or (outcome.plan.n,):
        part = summary[(summary.n_latents == n) & (summary.amount == 1)]
        scales = sorted({float(s) for s in part.scale}, reverse=True)
        rows = []
        for arm in (a for a in ARMS if a != "identity"):
            cells = []
            for scale in scales:
                cell = part[(part.arm == arm) & (part.scale == scale)]
                text = f"{cell.target_change.mean():.1f} / {cell.other_change.mean():.1f}"
                cells.append(text if len(cell) else "–")
            rows.append({"arm": arm, "cells": cells})
        title = f"{n} latent{'s' if n > 1 else ''}"
        blocks.append({"title": title, "scales": [f"{s:g}" for s in scales], "rows": rows})
    return blocks


def mean_tradeoff_rows(outcome: ExperimentResult) -> list[dict[str, Any]]:
    """A row per arm of the trade-off, with the texts of a cell per level."""
    rows: dict[str, dict[str, Any]] = {}
    for found in outcome.mean_tradeoff:
        row = rows.setdefault(found.arm, {"arm": STYLES[found.arm][0], "cells": []})
        n = found.n_concepts + found.n_missing
        row["cells"].append(
            {
                "level": f"{100 * found.level:.0f} %",
                "value": _between(found.other_change, found.interval)
                if found.n_concepts
                else "never",
                "over": f"over {found.n_concepts} of {n}" if found.n_missing else "",
                "apart": _between(found.difference, found.difference_interval)
                if found.n_pairs
                else "",
            }
        )
    return list(rows.values())


def _between(value: float, interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]".replace("-", "−")
