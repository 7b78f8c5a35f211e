"""What the page says and shows of one hypothesis: its rungs, its numbers, its figures."""

from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saev.intervention.hypothesis import ARMS
from saev.intervention.judge.mean_tradeoff import tradeoff_paths
from saev.intervention.judge.rungs import RUNGS
from saev.intervention.judge.verdict import CONTROLS, Verdict
from saev.intervention.report.examples import examples_figure, inside_data
from saev.intervention.report.figures import Curve, arms_figure, dose_figure
from saev.intervention.report.page_text import trade_axes
from saev.intervention.report.tradeoff_figure import tradeoff_figure
from saev.intervention.result import ExperimentResult
from saev.stats.tests import dose_response

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 130
BAR_WIDTH = 180
"""Pixels of the small effect bars in the table."""


class BarScale:
    """Place of an effect in a small bar."""

    def __init__(self, verdicts: list[Verdict]) -> None:
        values = [x for v in verdicts for x in (*v.interval, v.null_mean, v.null_95, 0.0, v.effect)]
        values = [x for x in values if np.isfinite(x)]
        self.low, self.high = min(values), max(max(values), min(values) + 1e-6)

    def place(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if np.isfinite(value) else 0.0
        return round(6 + share * (BAR_WIDTH - 12), 1)


def hypothesis_section(
    outcome: ExperimentResult, v: Verdict, number: int, scale: BarScale, figures: Path
) -> dict[str, Any]:
    """What the template fills in. Figures are files numbered like the hypothesis in ``verdict.json``:
    names of classes may hold anything, and two of them may differ in what no file name can."""
    null_low = scale.place(min(v.null_mean, v.null_95))
    curve = _curve(outcome, v)
    rho = dose_response(curve.doses, curve.effects) if curve else float("nan")
    return v.to_dict() | {
        "anchor": f"hypothesis-{number}",
        "bar": {
            "low": scale.place(v.interval[0]),
            "high": scale.place(v.interval[1]),
            "effect": scale.place(v.effect),
            "null_low": null_low,
            "null_width": max(2.0, round(scale.place(v.null_95) - null_low, 1)),
        },
        "rung_cells": {name: _rung_cell(v, name) for name in RUNGS},
        "same_length": [
            {"arm": words, "p": v.p_same_length[arm]}
            for arm, words in CONTROLS.items()
            if arm in v.p_same_length
        ],
        "figures": _figures(outcome, v, curve, f"{number:03d}", figures),
        "dose_rho": rho if np.isfinite(rho) else None,
    }


def _rung_cell(v: Verdict, name: str) -> dict[str, Any] | None:
    """None where the rung was not tested."""
    if name not in v.rungs:
        return None
    rung = v.rungs[name]
    known = bool(np.isfinite(rung.estimate))
    return {
        "holds": rung.holds,
        "estimate": _signed(rung.estimate, name != "effect") if known else "never half",
        "q": rung.q,
        "interval": f"[{_signed(rung.interval[0])}, {_signed(rung.interval[1])}]" if known else "",
    }


def _signed(value: float, plus: bool = False) -> str:
    if not np.isfinite(value):
        return "∞" if value > 0 else "−∞" if value < 0 else "–"
    return f"{value:{'+' if plus else ''}.2f}".replace("-", "−")


def _figures(
    outcome: ExperimentResult, v: Verdict, curve: Curve | None, number: str, folder: Path
) -> dict[str, str]:
    """Name → path from the page, "" where there is none."""
    metric = outcome.setting.file.metric.replace("_", " ")
    proposal = next(p for p in outcome.proposals if p.concept == v.concept)
    one = outcome.hypothesis_curves(proposal)
    axes = trade_axes(outcome.setting.file.direction)
    found = {
        "tradeoff": tradeoff_figure(tradeoff_paths(one), one.curves.doses, *axes),
        "examples": examples_figure(outcome, v),
        "arms": arms_figure(_arm_effects(outcome, v), v.interval, metric),
        "dose": dose_figure(curve, metric) if curve else None,
    }
    return {
        name: save_figure(figure, folder, f"{number}-{name}") if figure else ""
        for name, figure in found.items()
    }


def save_figure(figure: "Figure", folder: Path, name: str) -> str:
    """Writes a PNG; returns its path from the page, which lies above the folder."""
    figure.savefig(folder / f"{name}.png", dpi=DPI)
    return f"{folder.name}/{name}.png"


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
