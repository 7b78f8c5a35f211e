"""Tables of docs/tables/reproduction.md, from the reports of controlled experiments.

    python -m benchmarks.reproduction NAME=RUN,RUN,RUN … > docs/tables/reproduction.md

Each RUN is the folder of a run of ``saev.intervene``, or of one dictionary's report in it; those of one NAME are one experiment repeated
with dictionaries of different seeds. Cells are per cent, means over concepts and runs; ± is half a
95 % interval over the runs (Student's t), so that it speaks of other seeds and not of other images.
"""

# ruff: noqa: E501  (rows of tables, kept whole)

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from saev.intervention.hypothesis import ARMS, BASELINES
from saev.intervention.judge.rungs import LEVEL, RUNGS
from saev.intervention.judge.verdict import NO_MATCH, NO_POWER, NOT_SUPPORTED

FEATURES = {"rate": "tokens changed", "mean": "length", "dose": "dose"}
COLUMNS = ("target_change", "other_change", "accuracy_drop", "probability_drop")


@dataclass(frozen=True)
class Report:
    """What one run left."""

    summary: pd.DataFrame
    verdicts: list[dict]
    calibration: dict | None
    tradeoff: pd.DataFrame | None
    """Means over concepts at half of the target; None where no doses were compared."""
    tested: tuple[int, float]
    """Number of latents and dose that were tested; all other settings are described."""

    @classmethod
    def read(cls, run: str | Path) -> Report:
        """From the run folder; raises ``SystemExit`` with one sentence where there is no report."""
        folder = Path(run)
        if not (folder / "verdict.json").is_file():
            folder = folder / "report"
        if not (folder / "verdict.json").is_file():
            raise SystemExit(f"{folder} holds no verdict.json: give folders of saev.intervene runs")
        calibration, tradeoff = folder / "calibration.json", folder / "mean_tradeoff.csv"
        summary = pd.read_csv(folder / "summary.csv")
        summary = summary[summary.amount == 1]
        means = pd.read_csv(tradeoff) if tradeoff.is_file() else None
        identity = summary[summary.arm == "identity"].iloc[0]
        return cls(
            summary,
            json.loads((folder / "verdict.json").read_text()),
            json.loads(calibration.read_text()) if calibration.is_file() else None,
            None if means is None else means[means.level == 100 * LEVEL],
            (int(identity.n_latents), float(identity.scale)),
        )

    def mean(self, arm: str, n_latents: int, scale: float, column: str) -> float:
        """Over the concepts; NaN where the arm was not run."""
        return float(self.cells(arm, n_latents, scale)[column].mean())

    def cells(self, arm: str, n_latents: int, scale: float) -> pd.DataFrame:
        """The rows of an arm at a setting, one per concept."""
        s = self.summary
        return s[(s.arm == arm) & (s.n_latents == n_latents) & (s.scale == scale)]


def over_runs(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half of a 95 % t-interval; NaN for the half of a single run. Runs without the value
    (NaN) are left out."""
    found = np.asarray(values, float)
    found = found[~np.isnan(found)]
    if len(found) < 2:
        return float(found[0]) if len(found) else math.nan, math.nan
    half = stats.t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / math.sqrt(len(found))
    return float(found.mean()), float(half)


def headline(reports: Sequence[Report]) -> Iterator[str]:
    """Selected against random latents at every setting, run by run."""
    yield (
        "| latents, dose | arm | "
        + " | ".join(column.replace("_", " ") for column in COLUMNS)
        + " | target change of each run |"
    )
    yield "|---|---|" + "---|" * (len(COLUMNS) + 1)
    for n, scale in _settings(reports):
        for arm in ("selected", "random_latents"):
            cells = []
            for column in COLUMNS:
                cells.append(_mean_half([r.mean(arm, n, scale, column) for r in reports]))
            each = ", ".join(f"{r.mean(arm, n, scale, 'target_change'):.1f}" for r in reports)
            mark = " (tested)" if (n, scale) == reports[0].tested else ""
            yield f"| {n}, {scale:g}{mark} | {_words(arm)} | {' | '.join(cells)} | {each} |"


def settings_table(reports: Sequence[Report], concept: str | None = None) -> Iterator[str]:
    """Arms × settings, target / other change; of one concept, or the mean over all."""
    settings = _settings(reports)
    yield "| arm | " + " | ".join(f"{n}, {scale:g}" for n, scale in settings) + " |"
    yield "|---|" + "---|" * len(settings)
    for arm in (*ARMS, *BASELINES, "reconstruction"):
        cells = [_cell(reports, arm, n, scale, concept) for n, scale in settings]
        if any(cell != "–" for cell in cells):
            yield f"| {_words(arm)} | {' | '.join(cells)} |"


def _cell(reports: Sequence[Report], arm: str, n: int, scale: float, concept: str | None) -> str:
    found = []
    for report in reports:
        rows = report.cells(arm, n, scale)
        rows = rows if concept is None else rows[rows.concept == concept]
        if len(rows):
            found.append((rows.target_change.mean(), rows.other_change.mean()))
    if not found:
        return "–"
    target, other = np.mean(found, 0)
    return f"{target:.1f} / {other:.1f}"


def verdict_table(reports: Sequence[Report]) -> Iterator[str]:
    """A row per concept: the rungs that it holds in every run, and what its effect was."""
    yield "| concept | verdict and rungs held in each run | effect | matched random, mean | target change | other change | p (random) | p (images) | p (choice) |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for concept in dict.fromkeys(v["concept"] for r in reports for v in r.verdicts):
        rows = [v for r in reports for v in r.verdicts if v["concept"] == concept]
        numbers = [
            *(_mean_half([v[key] for v in rows], 2) for key in ("effect", "null_mean")),
            *(
                _mean_half([100 * v[key] for v in rows])
                for key in ("target_change", "other_change")
            ),
            *(_largest([v[key] for v in rows]) for key in ("p", "p_images", "p_selection")),
        ]
        yield f"| {concept} | {', '.join(map(_held, rows))} | {' | '.join(numbers)} |"


def _held(verdict: dict) -> str:
    """The rungs that hold, or the verdict where none does."""
    held = [name for name in RUNGS if verdict["rungs"].get(name, {}).get("holds")]
    return " + ".join(held) if held else _words(verdict["verdict"])


def counts(reports: Sequence[Report]) -> Iterator[str]:
    """Hypotheses of which each rung holds, and the verdicts on the others, run by run."""
    columns: dict[str, list[float]] = {"hypotheses": [len(r.verdicts) for r in reports]}
    for name in RUNGS:
        tested = [[v["rungs"][name]["holds"] for v in r.verdicts if name in v["rungs"]] for r in reports]  # fmt: skip
        columns[name] = [float(sum(held)) if held else math.nan for held in tested]
    for name in (NOT_SUPPORTED, NO_POWER, NO_MATCH):
        columns[_words(name)] = [sum(v["verdict"] == name for v in r.verdicts) for r in reports]
    return run_table(columns, 0)


def match_table(reports: Sequence[Report]) -> Iterator[str]:
    """How like the selected latents the random ones are: ratios, median over concepts, run by run."""
    columns = {
        words: [float(np.median([v["match"][name] for v in r.verdicts])) for r in reports]
        for name, words in FEATURES.items()
    }
    return run_table(columns, 2)


def shuffled_table(reports: Sequence[Report]) -> Iterator[str]:
    """How often each test rejects latents chosen on shuffled labels, per cent, run by run."""
    columns: dict[str, list[float]] = {}
    for number, report in enumerate(reports):
        for rate in (report.calibration or {"rates": []})["rates"]:
            for key, level in (("share", "p ≤ α"), ("share_corrected", "p ≤ α / h")):
                name = f"{_words(rate['test'])}, {level}"
                found = columns.setdefault(name, [math.nan] * len(reports))
                found[number] = math.nan if rate[key] is None else 100 * rate[key]
    return run_table(columns, 1)


def run_table(columns: Mapping[str, Sequence[float]], digits: int) -> Iterator[str]:
    """A row per run, the mean of the runs last; nothing where there is no column."""
    if not columns:
        return
    yield "| run | " + " | ".join(columns) + " |"
    yield "|---|" + "---|" * len(columns)
    for number, row in enumerate(zip(*columns.values(), strict=True)):
        cells = ("–" if math.isnan(value) else f"{value:.{digits}f}" for value in row)
        yield f"| {number} | {' | '.join(cells)} |"
    means = (_mean_half(values, max(1, digits)) for values in columns.values())
    yield f"| mean | {' | '.join(means)} |"


def tradeoff_table(reports: Sequence[Report]) -> Iterator[str]:
    """Other change where half of the target has changed, per arm: over runs, and run by run with the
    interval over images."""
    found = [r.tradeoff.set_index("arm") for r in reports if r.tradeoff is not None]
    if not found:
        return
    yield "| arm | other change | selected − this | selected − this, each run | concepts it is over, each run |"
    yield "|---|---|---|---|---|"
    for arm in found[0].index:
        rows = [table.loc[arm] for table in found]
        each = [
            f"{row.difference:.1f} [{row.difference_low:.1f}, {row.difference_high:.1f}]"
            for row in rows
            if not math.isnan(row.difference)
        ]
        cells = [
            _mean_half([row.other_change for row in rows]),
            _mean_half([row.difference for row in rows]),
            ", ".join(each) or "–",
            ", ".join(f"{row.n_concepts:.0f} of {row.n_concepts + row.n_missing:.0f}" for row in rows),
        ]  # fmt: skip
        yield f"| {_words(arm)} | {' | '.join(cells)} |"


def section(name: str, reports: Sequence[Report]) -> Iterator[str]:
    """Everything of one experiment."""
    n, scale = reports[0].tested
    yield f"## {name}\n"
    yield f"{len(reports)} run{'s' if len(reports) > 1 else ''}; tested: {n} latent{'s' if n > 1 else ''} set to {scale:g} × the largest code.\n"
    yield from _block("Rungs and verdicts", counts(reports))
    yield from _block(
        "Trade-off: other change where half of the target has changed", tradeoff_table(reports)
    )
    yield from _block(
        "Random latents ÷ selected ones, median over draws and concepts", match_table(reports)
    )
    yield from _block("Latents chosen on shuffled labels, share rejected", shuffled_table(reports))
    yield from _block("Selected and random latents", headline(reports))
    yield from _block(
        "Every arm: target / other change, mean over concepts", settings_table(reports)
    )
    yield from _block(
        "Concept by concept, at the tested setting (p: the largest of the runs)",
        verdict_table(reports),
    )
    concepts = list(dict.fromkeys(v["concept"] for r in reports for v in r.verdicts))
    yield "### Every arm for every concept: target / other change\n"
    for concept in concepts:
        yield f"<details><summary>{concept}</summary>\n"
        yield from settings_table(reports, concept)
        yield "\n</details>\n"


def _block(title: str, lines: Iterator[str]) -> Iterator[str]:
    """With its title; nothing where there is no line."""
    found = list(lines)
    if found:
        yield from (f"### {title}\n", *found, "")


def _settings(reports: Sequence[Report]) -> list[tuple[int, float]]:
    """Those of the selected latents, the tested one's number of latents first, doses falling."""
    rows = pd.concat([r.summary[r.summary.arm == "selected"] for r in reports])
    pairs = {(int(n), float(s)) for n, s in zip(rows.n_latents, rows.scale, strict=True)}
    return sorted(pairs, key=lambda pair: (pair[0], -pair[1]))


def _mean_half(values: Sequence[float], digits: int = 1) -> str:
    mean, half = over_runs(values)
    if math.isnan(mean):
        return "–"
    return f"{mean:.{digits}f}" + ("" if math.isnan(half) else f" ± {half:.{digits}f}")


def _largest(values: Sequence[float | None]) -> str:
    found = [value for value in values if value is not None]
    return f"{max(found):.4f}" if found else "–"


def _words(name: str) -> str:
    return name.replace("_", " ")


def main(arguments: Sequence[str]) -> None:
    """Prints the whole file."""
    if not arguments or any("=" not in argument for argument in arguments):
        raise SystemExit("give NAME=RUN,RUN,… for every experiment")
    print("# Tables of the controlled experiments\n")
    print(
        "Written by `python -m benchmarks.reproduction`; [reproduction.md](../reproduction.md) says what was run and what it means."
    )
    print("Per cent; ± is half a 95 % interval over the runs (dictionaries of different seeds).\n")
    for argument in arguments:
        name, _, runs = argument.partition("=")
        print("\n".join(section(name, [Report.read(run) for run in runs.split(",")])))


if __name__ == "__main__":
    main(sys.argv[1:])
