"""Dictionary training for a command: recorded activations, fit, evaluation."""

from dataclasses import replace
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from datamodules.images import ImageSource
from saev.backbones import Backbone
from saev.cli.console import override, print_next
from saev.recording.record_activations import activations_for, identity
from saev.tracking import Tracking
from saev.training.fit import check_resumable, check_schedules, fit_dictionary
from saev.training.sae_module import SAETraining


def train_sae(
    cfg: DictConfig, out_dir: Path, tracking: Tracking, backbone: Backbone, source: ImageSource
) -> dict[str, float]:
    """Trains the dictionary of ``cfg.model``, or fits it where it is a baseline.

    Leaves ``sae/`` and what an evaluation leaves.

    Raises:
        UserError: one sentence on what cannot be done and what to set.
    """
    module = instantiate(cfg.model, d_model=backbone.width)
    if not isinstance(module, SAETraining):
        from saev.training.baseline import fit_baseline_dictionary

        return fit_baseline_dictionary(cfg, module, out_dir, tracking, backbone, source)
    check_resumable(module, cfg.ckpt_path)
    check_schedules(module, cfg)
    activations_dir = cfg.data.dir or activations_for(cfg, backbone, source)
    data = instantiate(cfg.data, dir=str(activations_dir))
    belongs_to = {"backbone": identity(backbone), "layer": backbone.layer}
    data.check_backbone(replace(module.sae.cfg, **belongs_to))
    sae = fit_dictionary(cfg, module, data, source, out_dir, tracking)
    from saev.evaluation.report import evaluate_and_report  # not before training is over

    metrics = evaluate_and_report(
        sae,
        backbone,
        source,
        cfg.evaluation,
        cfg.trainer.accelerator,
        out_dir,
        tracking,
        step=cfg.trainer.max_steps,
    )
    print_next(
        [
            f"python -m saev.evaluate {override('sae', out_dir / 'sae')}",
            "python -m saev.train -m model.k=16,32,64",
            "make ui",
        ]
    )
    return metrics
