"""Controlled experiment of a command, from the config to the report on the run."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from datamodules.images import ImageSource
from saev.cli.console import print_table
from saev.cli.results import device_of, keep_metrics
from saev.errors import UserError
from saev.files import write_atomically
from saev.heads import load_head
from saev.interop import open_sae
from saev.intervention.experiment import run_setting
from saev.intervention.hypothesis import Hypothesis, read_hypothesis
from saev.intervention.judge.mean_tradeoff import MeanTradeoff
from saev.intervention.judge.rungs import LEVEL, RUNGS
from saev.intervention.judge.verdict import SUPPORTED, Verdict
from saev.intervention.readout import OWN_HEADS, make_readout
from saev.intervention.replication import ReplicatedRung, Replication, replicate
from saev.intervention.report.files import write_registered
from saev.intervention.report.page import (
    clearest_first,
    power_of,
    rung_counts,
    write_report,
)
from saev.intervention.report.placebo_section import TABLE_COLUMNS, table_rows
from saev.intervention.report.replication_page import write_replication
from saev.intervention.result import ExperimentResult
from saev.intervention.setting import Setting
from saev.loading import backbone_of, images_for
from saev.tracking import Tracking


def intervene_and_report(
    cfg: DictConfig, images: ImageSource | None, out_dir: Path, tracking: Tracking
) -> dict[str, float]:
    """Runs the experiment and leaves ``report/`` and ``metrics.json`` in ``out_dir`` and on the run.

    With several dictionaries each has a report of its own in it, and the page says what holds over all.

    Raises:
        UserError: see :func:`saev.intervention.experiment.run_setting`.
    """
    saes = _dictionaries(cfg)
    concepts = cfg.concepts
    if OmegaConf.is_config(concepts):
        concepts = OmegaConf.to_container(concepts)
    file, text = read_hypothesis(cfg.hypothesis, concepts, cfg.placebo)
    report = out_dir / "report"
    report.mkdir(parents=True, exist_ok=True)
    write_atomically(report / "hypothesis.yaml", text)
    tracking.log_artifact(report / "hypothesis.yaml", "report")
    tracking.set_tags({"saev.sha256.hypothesis_file": file.sha256()})
    outcomes: list[ExperimentResult] = []
    for number, sae in enumerate(saes):
        alone = len(saes) == 1
        folder = report if alone else report / _page_of(number)
        tag = "saev.sha256.hypothesis" if alone else f"saev.sha256.hypothesis.{number}"
        outcomes.append(_experiment(cfg, file, sae, images, folder, tracking, tag))
        show_verdicts(outcomes[-1])
    metrics = metrics_of(outcomes[0])
    if len(saes) > 1:
        found = replicate(outcomes)
        pages = [f"{_page_of(number)}/index.html" for number in range(len(saes))]
        write_replication(found, report, pages)
        metrics = replication_metrics(found, [metrics_of(outcome) for outcome in outcomes])
        show_replication(found)
    keep_metrics(metrics, out_dir, tracking)
    tracking.log_artifact(report, "report")
    return metrics


def _dictionaries(cfg: DictConfig) -> list[str]:
    """Those that ``sae`` or ``saes`` names."""
    saes = [str(sae) for sae in cfg.saes]
    if saes and cfg.sae is not None:
        raise UserError(
            "sae and saes are both set: give one dictionary, or several as saes=[A,B,C]"
        )
    if len(saes) == 1 or (not saes and cfg.sae is None):
        raise UserError(
            "set sae=DIR, or saes=[A,B,C] for two or more dictionaries of several seeds"
        )
    return saes or [str(cfg.sae)]


def _page_of(number: int) -> str:
    return f"dictionary_{number + 1}"


def _experiment(
    cfg: DictConfig, file: Hypothesis, name: str, images: ImageSource | None, folder: Path,
    tracking: Tracking, tag: str,
) -> ExperimentResult:  # fmt: skip
    """One dictionary's experiment, with its report in ``folder``."""
    sae = open_sae(name)
    source = images_for(sae, name, images)
    device = device_of(cfg.trainer.accelerator)
    head = str(cfg.head)
    trained = load_head(head) if head not in OWN_HEADS and Path(head).is_dir() else None
    backbone = backbone_of(sae, name, weights=cfg.backbone.weights, head=trained)
    readout = make_readout(head, backbone, source)
    run = cfg.intervention
    setting = Setting(
        file, sae, backbone, readout, source, run.batch_size, run.max_rows, run.num_workers, device
    )

    def register(content: dict[str, Any], sha256: str) -> None:
        place = "report" if folder.name == "report" else f"report/{folder.name}"
        tracking.log_artifact(write_registered(content, folder), place)
        tracking.set_tags({tag: sha256})

    outcome = run_setting(setting, register)
    write_report(outcome, folder)
    return outcome


def replication_metrics(
    found: Replication, each: Sequence[Mapping[str, float]]
) -> dict[str, float]:
    """Means over dictionaries of what each run says, and how many claims hold over all of them."""
    shared = set.intersection(*(set(one) for one in each))
    metrics = {name: sum(one[name] for one in each) / len(each) for name in sorted(shared)}
    for name in RUNGS:
        held = [one.rungs[name].holds for one in found.concepts if name in one.rungs]
        if held:
            metrics[f"intervene/replicated_{name}"] = float(sum(held))
    return metrics


def show_replication(found: Replication) -> None:
    """What holds over the dictionaries, as a table on screen."""
    names = [name for name in RUNGS if any(name in one.rungs for one in found.concepts)]
    rows = [
        [one.concept, *(_replicated(one.rungs.get(name)) for name in names)]
        for one in found.concepts
    ]
    title = f"Over {len(found.results)} dictionaries: estimate, q, dictionaries with which it holds"
    print_table(title, ["concept", *names], rows)


def _replicated(rung: ReplicatedRung | None) -> str:
    if rung is None:
        return ""
    mark = "✓" if rung.holds else "–"
    return f"{mark} {rung.estimate:.2f}, {rung.q:.3f}, {rung.n_holds}/{rung.n_tested}"


def metrics_of(outcome: ExperimentResult) -> dict[str, float]:
    """Flat: counts of verdicts and rungs, mean changes, the trade-off at half of the target,
    calibration. What is not known is left out."""
    rows = outcome.verdicts
    metrics = {
        "intervene/n_hypotheses": float(len(rows)),
        "intervene/n_supported": float(sum(row.verdict == SUPPORTED for row in rows)),
        "intervene/target_change": sum(row.target_change for row in rows) / len(rows),
        "intervene/other_change": sum(row.other_change for row in rows) / len(rows),
        "intervene/effect": sum(row.effect for row in rows) / len(rows),
        "intervene/null_mean": sum(row.null_mean for row in rows) / len(rows),
    }
    metrics["intervene/share_supported"] = metrics["intervene/n_supported"] / len(rows)
    if (power := power_of(outcome)) is not None:
        metrics["intervene/power"] = power
    for name, n in rung_counts(rows).items():
        metrics[f"intervene/n_{name}"] = float(n)
    metrics |= _tradeoff_metrics(outcome.mean_tradeoff)
    if outcome.calibration is not None:
        for rate in outcome.calibration.rates:
            metrics[f"intervene/shuffled/{rate.test}"] = rate.share
    if outcome.placebo is not None:
        for rate in outcome.placebo.rates:
            metrics[f"intervene/placebo/{rate.test}"] = rate.share
        for one in outcome.placebo.power:
            metrics[f"intervene/placebo_power/{one.strength:g}"] = one.share
    return metrics


def _tradeoff_metrics(found: Sequence[MeanTradeoff]) -> dict[str, float]:
    metrics = {}
    for row in found:
        if row.level == LEVEL:
            metrics[f"intervene/other_at_50/{row.arm}"] = row.other_change
            metrics[f"intervene/difference_at_50/{row.arm}"] = row.difference
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def show_verdicts(outcome: ExperimentResult) -> None:
    """The verdicts as a table on screen, those that hold most rungs first."""
    counts = rung_counts(outcome.verdicts)
    rows = [
        [
            row.concept, row.verdict, f"{row.effect:.3f}",
            f"[{row.interval[0]:.2f}, {row.interval[1]:.2f}]", f"{row.null_mean:.3f}",
            *(_rung_mark(row, name) for name in counts), f"{100 * row.target_change:.1f}",
            f"{100 * row.other_change:.1f}",
        ]
        for row in clearest_first(outcome.verdicts)
    ]  # fmt: skip
    held = ", ".join(f"{n} {name}" for name, n in counts.items())
    print_table(
        f"{len(rows)} hypotheses on {outcome.test.n_images:,} test images "
        f"(head: {outcome.setting.readout.name}): {held}",
        ["concept", "verdict", "effect", "95 %", "random", *(f"{name}, q" for name in counts),
         "target %", "other %"],
        rows,
    )  # fmt: skip
    for concept, reason in outcome.left_out.items():
        print_table(f"Left out: {concept}, {reason}", [], [])
    if outcome.calibration is not None:
        shares = ", ".join(
            f"{rate.test.replace('_', ' ')} {100 * rate.share:.1f} %"
            for rate in outcome.calibration.rates
        )
        print_table(f"On shuffled labels p ≤ {outcome.setting.file.alpha:g} by {shares}", [], [])
    if outcome.placebo is not None:
        print_table(
            f"{outcome.placebo.n_hypotheses} placebo hypotheses: how often each test passes latents "
            "that nobody chose",
            TABLE_COLUMNS,
            table_rows(outcome.placebo),
        )


def _rung_mark(row: Verdict, name: str) -> str:
    """Whether a rung holds, and its q; blank where it was not tested."""
    if name not in row.rungs:
        return ""
    rung = row.rungs[name]
    return f"{'✓' if rung.holds else '–'} {rung.q:.3f}"
