"""Page of a controlled experiment: pictures first, then verdicts, then words."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datamodules.images import ScenesImages
from saev.files import write_atomically
from saev.intervention.judge.mean_tradeoff import mean_paths
from saev.intervention.judge.rungs import RUNGS
from saev.intervention.judge.verdict import SUPPORTED, VERDICTS, Verdict
from saev.intervention.report.arm_tables import arm_rows, mean_tradeoff_rows, setting_blocks
from saev.intervention.report.files import write_files
from saev.intervention.report.hypothesis_section import (
    BAR_WIDTH,
    BarScale,
    hypothesis_section,
    save_figure,
)
from saev.intervention.report.page_text import (
    EXAMPLES_TEXTS,
    explain,
    metric_text,
    trade_axes,
    trade_text,
)
from saev.intervention.report.placebo_section import placebo_section
from saev.intervention.report.tradeoff_figure import tradeoff_figure
from saev.intervention.result import ExperimentResult
from saev.pages.render import fill_template

TEMPLATE = Path(__file__).parent / "page.html.j2"

if TYPE_CHECKING:
    import pandas as pd


def write_report(outcome: ExperimentResult, folder: Path) -> Path:
    """Leaves the files for scripts and the page in a folder; returns the page."""
    return write_page(outcome, write_files(outcome, folder), folder)


def write_page(outcome: ExperimentResult, summary: "pd.DataFrame", folder: Path) -> Path:
    """Writes ``index.html`` with ``figures/`` next to it; both open from disk."""
    figures = folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    numbers = {v.concept: number for number, v in enumerate(outcome.verdicts)}
    verdicts = clearest_first(outcome.verdicts)
    scale = BarScale(verdicts)
    file, readout = outcome.setting.file, outcome.setting.readout
    sections = [
        hypothesis_section(outcome, v, numbers[v.concept], scale, figures) for v in verdicts
    ]
    content = {
        "title": "Controlled experiment: editing latents and watching predictions",
        "subtitle": _subtitle(outcome),
        "lead": rung_counts(verdicts),
        "counts": {name: sum(v.verdict == name for v in verdicts) for name in VERDICTS},
        "mean_figure": _mean_figure(outcome, verdicts, figures),
        "mean_rows": mean_tradeoff_rows(outcome),
        "trade_text": trade_text(file.direction, readout.per),
        "clearest": next((s for s in sections if s["figures"]["examples"]), None),
        "explanation": explain(outcome),
        "verdicts": sections,
        "axis": {"zero": scale.place(0.0), "width": BAR_WIDTH},
        "metric_text": metric_text(file.metric, file.direction, readout.per),
        "alpha": file.alpha,
        "max_ratio": file.max_ratio,
        "smallest_effect": file.smallest_effect,
        "n_draws": verdicts[0].n_draws,
        "n_untrained": file.untrained,
        "scale": file.scale,
        "units": "patches" if readout.per == "patch" else "images",
        "left_out": outcome.left_out,
        "arms": arm_rows(summary, outcome),
        "settings": setting_blocks(summary, outcome),
        "calibration": _calibration(outcome),
        "placebo": placebo_section(outcome.placebo, figures),
        "power": power_of(outcome),
        "examples_text": EXAMPLES_TEXTS[readout.per],
        "registered": outcome.registered_sha256,
    }
    path = folder / "index.html"
    write_atomically(path, fill_template(TEMPLATE, content))
    return path


def clearest_first(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Those that hold most rungs first, the largest effect first."""

    def rank(v: Verdict) -> tuple[bool, int, float]:
        return v.verdict != SUPPORTED, -sum(rung.holds for rung in v.rungs.values()), -v.effect

    return sorted(verdicts, key=rank)


def rung_counts(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """Rung → hypotheses of which it holds, for the rungs that were tested, lowest first."""
    return {
        name: sum(v.rungs[name].holds for v in verdicts if name in v.rungs)
        for name in RUNGS
        if any(name in v.rungs for v in verdicts)
    }


def _subtitle(outcome: ExperimentResult) -> str:
    setting = outcome.setting
    return (
        f"{setting.backbone.name}, dictionary of {setting.sae.cfg.d_sae:,} latents after block "
        f"{setting.layer} of {setting.backbone.n_blocks} (counted from 0), head: "
        f"{setting.readout.name}, images: {setting.source.name} ({len(outcome.discovery.items)} for "
        f"discovery, {outcome.test.n_images} for the test)"
    )


def _mean_figure(outcome: ExperimentResult, verdicts: Sequence[Verdict], figures: Path) -> str:
    """Path of the trade-off over the hypotheses on the page."""
    shown = {v.concept for v in verdicts}
    found = [outcome.hypothesis_curves(p) for p in outcome.proposals if p.concept in shown]
    axes = trade_axes(outcome.setting.file.direction)
    figure = tradeoff_figure(mean_paths(found), found[0].curves.doses, *axes)
    return save_figure(figure, figures, "tradeoff")


def power_of(outcome: ExperimentResult) -> float | None:
    """Share of planted concepts that are supported; None where nobody planted them."""
    if not isinstance(outcome.setting.source, ScenesImages):
        return None
    return float(np.mean([v.verdict == SUPPORTED for v in outcome.verdicts]))


def _calibration(outcome: ExperimentResult) -> dict[str, Any] | None:
    found = outcome.calibration
    if found is None:
        return None
    return found.to_dict()
