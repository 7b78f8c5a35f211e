"""Files of a controlled experiment for scripts: verdicts, every effect, tables."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saev.files import write_atomically, write_table
from saev.intervention.arms.arms import Use
from saev.intervention.hypothesis import ARMS
from saev.intervention.judge.dose_curves import TradeoffRow
from saev.intervention.judge.mean_tradeoff import MeanTradeoff
from saev.intervention.judge.tally import other_change
from saev.intervention.judge.verdict import Verdict
from saev.intervention.result import ExperimentResult
from saev.pages.site import plain

if TYPE_CHECKING:
    import pandas as pd

SUMMARY_COLUMNS = (
    "concept", "arm", "n_latents", "scale", "amount", "target_change", "target_repaired",
    "target_errors_moved", "other_change", "probability_drop", "accuracy_drop",
)  # fmt: skip


def write_registered(content: dict[str, Any], folder: Path) -> Path:
    """Writes ``registered.json``: what is about to be tested, before a test image is read."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "registered.json"
    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return path


def write_files(outcome: ExperimentResult, folder: Path) -> "pd.DataFrame":
    """Writes ``verdict.json``, ``effects.parquet``, ``summary.csv`` and, where they were asked for,
    ``tradeoff.csv``, ``mean_tradeoff.csv``, ``calibration.json`` and ``placebo.json``; returns the
    summary."""
    folder.mkdir(parents=True, exist_ok=True)
    verdicts = [verdict.to_dict() for verdict in outcome.verdicts]
    text = json.dumps(verdicts, indent=2, ensure_ascii=False)
    write_atomically(folder / "verdict.json", text + "\n")
    write_table(effects_table(outcome), folder / "effects.parquet")
    summary = summary_table(outcome)
    write_table(summary.round(4), folder / "summary.csv")
    if outcome.mean_tradeoff:
        for name, table in (
            ("tradeoff", tradeoff_table(outcome.verdicts)),
            ("mean_tradeoff", mean_tradeoff_table(outcome.mean_tradeoff)),
        ):
            write_table(table.round(4), folder / f"{name}.csv")
    if outcome.calibration is not None:
        text = json.dumps(outcome.calibration.to_dict(), indent=2)
        write_atomically(folder / "calibration.json", text + "\n")
    if outcome.placebo is not None:
        text = json.dumps(plain(outcome.placebo.to_dict()), indent=2)
        write_atomically(folder / "placebo.json", text + "\n")
    return summary


def effects_table(outcome: ExperimentResult) -> "pd.DataFrame":
    """One row per hypothesis, arm, draw and image.

    ``target_units`` of the image are of the concept, ``other_units`` of its group's other classes;
    ``*_changed`` counts those whose prediction changes; ``effect`` is the metric on this image alone,
    NaN where it does not show the concept; ``probability_drop`` is the mean over target units.
    """
    import pandas as pd

    parts = [_effects(outcome, use) for use in outcome.plan.uses]
    return pd.DataFrame({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def _effects(outcome: ExperimentResult, use: Use) -> dict[str, np.ndarray]:
    images = np.flatnonzero(outcome.images_of[use.concept])
    clean, tally = outcome.test.clean.take(images), outcome.tallies[use.key].take(images)
    ask = outcome.question(use.concept)
    c = ask.label
    first, last = ask.groups.spans[ask.groups.of(c)]
    others = [k for k in range(first, last) if k != c]
    n = clean.n_base[:, c]
    fall = clean.tally.probability[:, c] - tally.probability[:, c]
    same = {
        "hypothesis": np.array(use.concept, object),
        "arm": np.array(use.arm, object),
        "draw": np.int32(use.draw),
        "n_latents": np.int32(use.n_latents),
        "scale": np.float32(use.scale),
        "tested": np.bool_(use.tested),
        "amount": np.float32(use.amount),
    }
    ids = np.array([outcome.test.items[i].image_id for i in images], object)
    return {
        **{name: np.full(len(images), value) for name, value in same.items()},
        "image": ids,
        "target_units": n.astype(np.int32),
        "target_left": tally.left[:, c].astype(np.int32),
        "target_repaired": tally.repaired[:, c].astype(np.int32),
        "target_changed": tally.changed[:, c].astype(np.int32),
        "other_units": clean.n_base[:, others].sum(1).astype(np.int32),
        "other_changed": tally.changed[:, others].sum(1).astype(np.int32),
        "probability_drop": np.divide(fall, n, out=np.full(len(n), np.nan), where=n > 0),
        "effect": ask.per_image(tally, clean).astype(np.float32),
    }


def tradeoff_table(verdicts: Sequence[Verdict]) -> "pd.DataFrame":
    """One row per concept, arm and level: other change where so much of the target has changed, in per
    cent; inf where the arm never reaches the level, and in ``difference`` −inf where the arm alone
    does not."""
    import pandas as pd

    rows = [{"concept": v.concept, **_level_row(row)} for v in verdicts for row in v.tradeoff]
    return pd.DataFrame(rows)


def mean_tradeoff_table(found: Sequence[MeanTradeoff]) -> "pd.DataFrame":
    """The same, one row per arm and level: means over the concepts of which the arm (for
    ``difference``: it and the selected latents) reaches the level."""
    import pandas as pd

    counts = ("n_concepts", "n_missing", "n_pairs")
    rows = [_level_row(row) | {name: getattr(row, name) for name in counts} for row in found]
    return pd.DataFrame(rows)


def _level_row(row: TradeoffRow | MeanTradeoff) -> dict[str, Any]:
    """Per cent."""
    numbers = {
        "level": row.level,
        "other_change": row.other_change,
        "other_change_low": row.interval[0],
        "other_change_high": row.interval[1],
        "difference": row.difference,
        "difference_low": row.difference_interval[0],
        "difference_high": row.difference_interval[1],
    }
    return {"arm": row.arm, **{name: 100 * value for name, value in numbers.items()}}


def summary_table(outcome: ExperimentResult) -> "pd.DataFrame":
    """Per concept, arm and setting the change of the target and of everything else, in per cent,
    mean over draws; over all of the hypothesis's test images."""
    import pandas as pd

    rows = []
    groups: dict[tuple[str, str, int, float, float], list[Use]] = {}
    for use in outcome.plan.uses:
        setting = (use.concept, use.arm, use.n_latents, use.scale, use.amount)
        groups.setdefault(setting, []).append(use)
    for setting, uses in groups.items():
        values = np.array([_changes(outcome, use) for use in uses])
        rows.append((*setting, *values.mean(0), len(uses)))
    columns = [*SUMMARY_COLUMNS, "n_draws"]
    table = pd.DataFrame(rows, columns=columns)
    order = {arm: number for number, arm in enumerate(ARMS)}
    ranks = table["arm"].map(lambda arm: order.get(str(arm), len(order)))
    table = table.assign(rank=ranks).sort_values(
        ["concept", "n_latents", "scale", "amount", "rank", "arm"], kind="stable"
    )
    return table.drop(columns="rank").reset_index(drop=True)


def _changes(outcome: ExperimentResult, use: Use) -> tuple[float, ...]:
    """The numbers of ``SUMMARY_COLUMNS``, per cent; the repaired and those moved from one error to
    another are shares of the units that were predicted as another class."""
    images = np.flatnonzero(outcome.images_of[use.concept])
    clean, tally = outcome.test.clean.take(images), outcome.tallies[use.key].take(images)
    c, groups = outcome.setting.readout.column(use.concept), outcome.setting.readout.groups
    n, right = clean.n_base[:, c].sum(), clean.n_right[:, c].sum()
    fall = (clean.tally.probability[:, c] - tally.probability[:, c]).sum()
    lost = (clean.tally.correct[:, c] - tally.correct[:, c]).sum()
    left, repaired = tally.left[:, c].sum(), tally.repaired[:, c].sum()
    return (
        _per_cent(left, right),
        _per_cent(repaired, n - right),
        _per_cent(tally.changed[:, c].sum() - left - repaired, n - right),
        100 * other_change(tally, clean, c, groups),
        _per_cent(fall, n),
        _per_cent(lost, clean.n_labelled[:, c].sum()),
    )


def _per_cent(hits: np.floating, units: np.floating) -> float:
    return 100 * float(hits / units) if units else float("nan")
