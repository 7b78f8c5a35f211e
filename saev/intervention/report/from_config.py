"""A controlled experiment for a command: everything from the config to the report on the run."""

import json
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from datamodules.images import ImageSource
from saev.backbones import Backbone, load_backbone
from saev.cli.console import print_table
from saev.cli.results import device_of, keep_metrics
from saev.defaults import CONF_DIR
from saev.errors import UserError
from saev.heads import load_head
from saev.intervention.experiment import Outcome, run_experiment
from saev.intervention.hypothesis import HypothesisFile
from saev.intervention.judge.verdict import SUPPORTED
from saev.intervention.readout import OWN_HEADS, make_readout
from saev.intervention.report.files import write_files
from saev.intervention.report.page import power_of, write_page
from saev.intervention.setting import setting_of
from saev.sae import SparseAutoencoder
from saev.tracking import Tracking

HYPOTHESES_DIR = CONF_DIR / "hypotheses"


def intervene_and_report(
    cfg: DictConfig,
    sae: SparseAutoencoder,
    source: ImageSource,
    out_dir: Path,
    tracking: Tracking,
) -> dict[str, float]:
    """Runs the experiment and leaves ``report/`` and ``metrics.json`` in ``out_dir`` and on the run.

    Raises:
        UserError: see :func:`saev.experiment.controlled.run_experiment`.
    """
    file, text = read_hypothesis(cfg.hypothesis, cfg.concepts)
    report = out_dir / "report"
    report.mkdir(parents=True, exist_ok=True)
    (report / "hypothesis.yaml").write_text(text)
    tracking.log_artifact(report / "hypothesis.yaml", "report")
    tracking.set_tags({"saev.sha256.hypothesis_file": file.sha256()})
    device = device_of(cfg.trainer.accelerator)
    backbone = backbone_for(sae, str(cfg.sae), cfg.backbone.weights, str(cfg.head))
    readout = make_readout(str(cfg.head), backbone, source)
    setting = setting_of(cfg, file, sae, backbone, readout, source, device)

    def register(content: dict[str, Any], sha256: str) -> None:
        path = report / "registered.json"
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        tracking.log_artifact(path, "report")
        tracking.set_tags({"saev.sha256.hypothesis": sha256})

    outcome = run_experiment(setting, register)
    summary = write_files(outcome, report)
    write_page(outcome, summary, report)
    metrics = metrics_of(outcome)
    keep_metrics(metrics, out_dir, tracking)
    tracking.log_artifact(report, "report")
    show(outcome)
    return metrics


def read_hypothesis(where: str | None, concepts: Any) -> tuple[HypothesisFile, str]:
    """The file and its text: a path, or a name in ``conf/hypotheses``; None is a file that says
    nothing, so that everything is at its default. ``concepts`` replaces what it says of them."""
    content: Any = {}
    if where is not None:
        path = Path(where)
        if not path.is_file():
            path = HYPOTHESES_DIR / f"{where}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(p.stem for p in HYPOTHESES_DIR.glob("*.yaml")))
            raise UserError(f"hypothesis={where} is no file and none of {known}")
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is not YAML ({error}): correct it") from error
    if concepts is not None:
        chosen = OmegaConf.to_container(concepts) if OmegaConf.is_config(concepts) else concepts
        content = {**content, "concept": chosen}
    elif where is None:
        raise UserError("nothing is asked: set hypothesis=FILE, or concepts=all")
    if not isinstance(content, dict):
        raise UserError(f"hypothesis={where} holds no key: value pairs")
    file = HypothesisFile.from_dict(content, f"hypothesis={where}")
    return file, yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def backbone_for(sae: SparseAutoencoder, name: str, weights: str | None, head: str) -> Backbone:
    """The SAE's backbone, preparing pictures as the head's was: a segmentation head has seen them
    whole, whatever the SAE was trained on."""
    if sae.cfg.backbone is None or sae.cfg.layer is None:
        raise UserError(f"{name} does not say which backbone and layer it belongs to")
    spec = dict(sae.cfg.backbone["spec"])
    if head not in OWN_HEADS and Path(head).is_dir():
        seen = load_head(head).backbone.get("spec", {})
        for key in ("resize", "crop_pct", "image_size"):
            spec.pop(key, None)
            if seen.get(key) is not None:
                spec[key] = seen[key]
    if weights is not None:
        spec["weights"] = str(Path(weights).expanduser())
    return load_backbone(**spec)


def metrics_of(outcome: Outcome) -> dict[str, float]:
    """Flat: shares of verdicts, mean changes, calibration."""
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
    if outcome.calibration is not None:
        metrics["intervene/shuffled_supported"] = outcome.calibration.share_supported
        metrics["intervene/false_discovery_rate"] = outcome.calibration.false_discovery_rate
        metrics["intervene/uniformity_p"] = outcome.calibration.uniformity_p
    return metrics


def show(outcome: Outcome) -> None:
    """The verdicts as a table on screen: the supported ones first, the largest effect first."""
    rows = [
        [
            row.concept, row.verdict, f"{row.effect:.3f}",
            f"[{row.interval[0]:.2f}, {row.interval[1]:.2f}]", f"{row.null_mean:.3f}",
            f"{row.p:.4f}", f"{row.q:.4f}", f"{100 * row.target_change:.1f}",
            f"{100 * row.other_change:.1f}",
        ]
        for row in sorted(outcome.verdicts, key=lambda row: (row.verdict != SUPPORTED, -row.effect))
    ]  # fmt: skip
    print_table(
        f"{len(rows)} hypotheses on {outcome.test.n_images:,} test images "
        f"(head: {outcome.setting.readout.name})",
        ["concept", "verdict", "effect", "95 %", "random", "p", "q", "target %", "other %"],
        rows,
    )
    for concept, reason in outcome.left_out.items():
        print_table(f"Left out: {concept}, {reason}", [], [])
    if outcome.calibration is not None:
        c = outcome.calibration
        print_table(
            f"Shuffled labels: {c.n_supported} of {c.n_hypotheses} hypotheses supported; "
            f"p-values of random latents against uniform: p = {c.uniformity_p:.2f}",
            [], [],
        )  # fmt: skip
