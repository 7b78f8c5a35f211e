"""Page of a controlled experiment, with its figures."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datamodules.images import ScenesImages
from saev.intervention.hypothesis import ARMS
from saev.intervention.judge.verdict import SUPPORTED, VERDICTS, Verdict
from saev.intervention.report.examples import examples_figure, inside_data
from saev.intervention.report.figures import Curve, arms_figure, dose_figure
from saev.intervention.report.files import write_files
from saev.intervention.report.page_text import ARM_TEXTS, EXAMPLES_TEXTS, explain, metric_text
from saev.intervention.report.placebo_section import placebo_section
from saev.intervention.result import ExperimentResult
from saev.pages.render import fill_template
from saev.stats.tests import dose_response

TEMPLATE = Path(__file__).parent / "page.html.j2"

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

BAR_WIDTH = 220
"""Pixels of the small effect bars in the table."""


def write_report(outcome: ExperimentResult, folder: Path) -> Path:
    """Leaves the files for scripts and the page in a folder; returns the page."""
    return write_page(outcome, write_files(outcome, folder), folder)


def write_page(outcome: ExperimentResult, summary: "pd.DataFrame", folder: Path) -> Path:
    """Writes ``index.html`` with ``figures/`` next to it; both open from disk."""
    figures = folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    verdicts = sorted(outcome.verdicts, key=lambda v: (v.verdict != SUPPORTED, -v.effect))
    scale = _BarScale(verdicts)
    file, readout = outcome.setting.file, outcome.setting.readout
    content = {
        "title": "Controlled experiment: editing latents and watching predictions",
        "subtitle": _subtitle(outcome),
        "counts": {name: sum(v.verdict == name for v in verdicts) for name in VERDICTS},
        "explanation": explain(outcome),
        "verdicts": [_verdict(outcome, v, scale, figures) for v in verdicts],
        "axis": {"zero": scale.place(0.0)},
        "metric_text": metric_text(file.metric, file.direction, readout.per),
        "alpha": file.alpha,
        "smallest_effect": file.smallest_effect,
        "n_draws": verdicts[0].n_draws,
        "units": "patches" if readout.per == "patch" else "images",
        "left_out": outcome.left_out,
        "arms": _arms(summary, outcome),
        "settings": _settings(summary, outcome),
        "calibration": _calibration(outcome),
        "placebo": placebo_section(outcome.placebo, figures),
        "power": power_of(outcome),
        "examples_text": EXAMPLES_TEXTS[readout.per],
        "registered": outcome.registered_sha256,
    }
    path = folder / "index.html"
    path.write_text(fill_template(TEMPLATE, content), encoding="utf-8")
    return path


def _subtitle(outcome: ExperimentResult) -> str:
    setting = outcome.setting
    return (
        f"{setting.backbone.name}, dictionary of {setting.sae.cfg.d_sae:,} latents after block "
        f"{setting.layer} of {setting.backbone.n_blocks} (counted from 0), head: "
        f"{setting.readout.name}, images: {setting.source.name} ({len(outcome.discovery.items)} for "
        f"discovery, {outcome.test.n_images} for the test)"
    )


class _BarScale:
    """Place of an effect in a small bar."""

    def __init__(self, verdicts: list[Verdict]) -> None:
        values = [x for v in verdicts for x in (*v.interval, v.null_mean, v.null_95, 0.0, v.effect)]
        values = [x for x in values if np.isfinite(x)]
        self.low, self.high = min(values), max(max(values), min(values) + 1e-6)

    def place(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if np.isfinite(value) else 0.0
        return round(6 + share * (BAR_WIDTH - 12), 1)


def _verdict(
    outcome: ExperimentResult, v: Verdict, scale: _BarScale, figures: Path
) -> dict[str, Any]:
    anchor = re.sub(r"[^\w-]+", "-", v.concept)
    null_low = scale.place(min(v.null_mean, v.null_95))
    row = v.to_dict() | {
        "anchor": anchor,
        "bar": {
            "low": scale.place(v.interval[0]),
            "high": scale.place(v.interval[1]),
            "effect": scale.place(v.effect),
            "null_low": null_low,
            "null_width": max(2.0, round(scale.place(v.null_95) - null_low, 1)),
        },
        "matching": (
            f"the random latents' edits change {v.match['rate']:.2f} times as many tokens, by "
            f"{v.match['mean']:.2f} times the mean length and {v.match['dose']:.2f} times the largest."
        ),
    }
    metric = outcome.setting.file.metric.replace("_", " ")
    paths = {
        "arms": _save(
            arms_figure(_arm_effects(outcome, v), v.interval, metric), figures, f"{anchor}-arms"
        )
    }
    curve = _curve(outcome, v)
    paths["dose"] = _save(dose_figure(curve, metric), figures, f"{anchor}-dose") if curve else ""
    examples = examples_figure(outcome, v)
    paths["examples"] = _save(examples, figures, f"{anchor}-examples") if examples else ""
    rho = dose_response(curve.doses, curve.effects) if curve else float("nan")
    return row | {"figures": paths, "dose_rho": rho if np.isfinite(rho) else None}


def _save(figure: "Figure", folder: Path, name: str) -> str:
    figure.savefig(folder / f"{name}.png", dpi=110)
    return f"figures/{name}.png"


def _effect(outcome: ExperimentResult, concept: str, key: Hashable) -> float:
    images = np.flatnonzero(outcome.images_of[concept])
    clean = outcome.test.clean.take(images)
    return outcome.question(concept).effect(outcome.tallies[key].take(images), clean)


def _arm_effects(outcome: ExperimentResult, v: Verdict) -> dict[str, np.ndarray]:
    """Every tested draw's effect, by arm, in the order of ``ARMS``."""
    found: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for use in outcome.plan.uses:
        if use.concept == v.concept and use.tested:
            found.setdefault(use.arm, []).append(_effect(outcome, v.concept, use.key))
    return {arm: np.array(values) for arm, values in found.items() if values}


def _curve(outcome: ExperimentResult, v: Verdict) -> Curve | None:
    """Effects at every dose that was run with the tested number of latents."""
    n = outcome.plan.n
    selected: dict[float, float] = {}
    random: dict[float, list[float]] = {}
    for use in outcome.plan.uses:
        if use.concept != v.concept or use.n_latents != n or use.amount != 1:
            continue
        if use.arm == "selected":
            selected.setdefault(use.scale, _effect(outcome, v.concept, use.key))
        elif use.arm == "random_latents":
            random.setdefault(use.scale, []).append(_effect(outcome, v.concept, use.key))
    if len(selected) < 3:
        return None
    doses = sorted(selected)
    proposal = next(p for p in outcome.proposals if p.concept == v.concept)
    inside = {dose: inside_data(outcome, proposal.latents[n], dose) for dose in doses}
    means = {dose: float(np.mean(values)) for dose, values in random.items()}
    return Curve(doses, [selected[d] for d in doses], means, inside, outcome.setting.file.scale)


def _arms(summary: "pd.DataFrame", outcome: ExperimentResult) -> list[dict[str, str]]:
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


def _settings(summary: "pd.DataFrame", outcome: ExperimentResult) -> list[dict[str, Any]]:
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
