"""Baseline fitting for a command: recorded activations, fit, evaluation."""

from dataclasses import replace
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from datamodules.images import ImageSource
from saev.backbones import Backbone
from saev.cli.console import override, print_next
from saev.errors import UserError
from saev.recording.record_activations import activations_for, identity
from saev.sae.baselines import Baseline
from saev.tracking import Tracking, is_main_process
from saev.training.fit import POOL_TOKENS, provenance_of, sae_tags, training_pool


def fit_baseline_dictionary(
    cfg: DictConfig, baseline: Baseline, out_dir: Path, tracking: Tracking, backbone: Backbone,
    source: ImageSource,
) -> dict[str, float]:  # fmt: skip
    """Fits a baseline; leaves ``sae/`` and what an evaluation leaves.

    Raises:
        UserError: one sentence on what cannot be done and what to set.
    """
    if cfg.ckpt_path is not None:
        raise UserError(
            f"ckpt_path={cfg.ckpt_path} has no effect: {baseline.kind} is fitted in one go"
        )
    activations_dir = cfg.data.dir or activations_for(cfg, backbone, source)
    if not is_main_process():
        return {}
    data = instantiate(cfg.data, dir=str(activations_dir))
    belongs_to = {"backbone": identity(backbone), "layer": backbone.layer}
    data.check_backbone(replace(baseline.shape, **belongs_to))
    data.prepare_data()
    statistics, manifest = data.statistics, data.manifest
    sae = baseline.fit(
        training_pool(data, POOL_TOKENS),
        torch.tensor(statistics.mean),
        statistics.scale,
        statistics.max_norm,
        **provenance_of(manifest, source),
    )
    folder = sae.save_pretrained(out_dir / "sae")
    tracking.log_artifact(folder, "sae")
    tracking.set_tags({"saev.sha256.manifest": manifest.sha256, **sae_tags(folder)})
    from saev.evaluation.report import evaluate_and_report

    metrics = evaluate_and_report(
        sae, backbone, source, cfg.evaluation, cfg.trainer.accelerator, out_dir, tracking
    )
    print_next([f"python -m saev.evaluate {override('sae', folder)}", "make ui"])
    return metrics
