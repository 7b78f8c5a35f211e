"""Dictionary training for a command: recorded activations, fit, evaluation."""

import logging
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from datamodules.activations.module import ActivationDataModule
from datamodules.images import ImageSource
from saev.backbones import Backbone
from saev.errors import UserError
from saev.files import file_sha256
from saev.recording.record_activations import identity, record_activations, settings_of
from saev.sae import SparseAutoencoder
from saev.stopping import at_batch_ends
from saev.tracking import Tracking, is_main_process
from saev.training.distributed import part_ways
from saev.training.fit import exported, fit_baseline_to, start_at_data
from saev.training.resume_points import (
    LAST,
    PREVIOUS,
    LostRank,
    StopAtBatchEnd,
    keep_end,
    write_whole,
)
from saev.training.sae_module import SAETraining

log = logging.getLogger(__name__)


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
        if cfg.ckpt_path is not None:
            raise UserError(
                f"ckpt_path={cfg.ckpt_path} has no effect: {module.kind} is fitted in one go"
            )
        data = _data(cfg, backbone, source, module.shape)
        if not is_main_process():
            return {}
        sae = fit_baseline_to(module, data, source)
    else:
        check_resumable(module, cfg.ckpt_path)
        check_schedules(module, cfg)
        data = _data(cfg, backbone, source, module.sae.cfg)
        sae = _train(cfg, module, data, source, out_dir, tracking)
    # not before training is over
    from saev.cli.console import override, print_next
    from saev.evaluation.report import evaluate_and_report

    if is_main_process():
        _keep(sae, data, out_dir, tracking)
    trained = isinstance(module, SAETraining)
    steps = cfg.trainer.max_steps if trained else None
    metrics = evaluate_and_report(
        sae,
        backbone,
        source,
        cfg.evaluation,
        cfg.trainer.accelerator,
        out_dir,
        tracking,
        step=steps,
    )
    if (explained := metrics.get("val/explained_variance", 0.0)) < 0:
        log.warning(
            "the dictionary is worse than the mean alone (explained variance %.3g): the training did not "
            "converge; lower model.optimizer.lr", explained,
        )  # fmt: skip
    commands = [f"python -m saev.evaluate {override('sae', out_dir / 'sae')}", "make ui"]
    if trained:
        commands.insert(1, "python -m saev.train -m model.k=16,32,64")
    print_next(commands)
    return metrics


def check_resumable(module: SAETraining, ckpt_path: str | None) -> None:
    """Raises UserError unless the checkpoint is readable and of a dictionary of the same shape."""
    if ckpt_path is None:
        return
    path = Path(ckpt_path)
    if not path.is_file():
        raise UserError(f"ckpt_path={ckpt_path} is not a file; give a run's checkpoints/last.ckpt")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    except (pickle.UnpicklingError, RuntimeError, KeyError, EOFError, OSError) as error:
        raise UserError(
            f"ckpt_path={ckpt_path} is damaged or not a checkpoint of saev.train; "
            f"{_older_than(path)}, or leave it out to start again"
        ) from error
    here = module.state_dict()
    for name, tensor in state.items():
        if name in here and here[name].shape != tensor.shape:
            raise UserError(
                f"ckpt_path={ckpt_path} holds {name} of shape {tuple(tensor.shape)}, this run has "
                f"{tuple(here[name].shape)}; set the backbone, model.expansion or model.d_sae it "
                "was trained with"
            )


def _older_than(path: Path) -> str:
    older = path.with_name(PREVIOUS)
    return f"give the one before, {older}" if older.is_file() else "give an older one"


def check_schedules(module: SAETraining, cfg: DictConfig) -> None:
    """Builds the callbacks once; raises UserError where one, or a schedule, does not go with the
    length of the run."""
    steps = cfg.trainer.max_steps
    n_tokens = steps * cfg.data.batch_size if steps and steps > 0 else float("inf")
    try:
        module.check_length(steps if steps is not None else -1)
        for callback in _callbacks(cfg):
            if check := getattr(callback, "check", None):
                check(module, n_tokens)
    except ValueError as error:
        raise UserError(str(error)) from error


def _callbacks(cfg: DictConfig) -> list[L.Callback]:
    return [instantiate(node) for node in (cfg.callbacks or {}).values() if node is not None]


def _data(
    cfg: DictConfig, backbone: Backbone, source: ImageSource, shape: Any
) -> ActivationDataModule:
    """The activations of ``data.dir``, or those that belong to backbone, layer, tokens and images."""
    folder = cfg.data.dir
    if not folder:
        device = L.Fabric(accelerator=cfg.trainer.accelerator, devices=1).device
        folder = record_activations(backbone, source, **settings_of(cfg), device=device).path
    data = instantiate(cfg.data, dir=str(folder))
    belongs_to = {"backbone": identity(backbone), "layer": backbone.layer}
    data.check_backbone(replace(shape, **belongs_to))
    return data


def _train(
    cfg: DictConfig, module: SAETraining, data: ActivationDataModule, source: ImageSource,
    out_dir: Path, tracking: Tracking,
) -> SparseAutoencoder:  # fmt: skip
    """Fits ``module`` as ``cfg.trainer`` and ``cfg.callbacks`` say; checkpoints are for resuming."""
    start_at_data(module, data, cfg.seed, resumes=cfg.ckpt_path is not None)
    checkpoints = out_dir / "checkpoints"
    lost_rank = LostRank(checkpoints / LAST)
    trainer: L.Trainer = instantiate(
        cfg.trainer,
        logger=tracking.lightning_logger() or False,
        callbacks=[*_callbacks(cfg), StopAtBatchEnd(checkpoints / LAST), lost_rank],
        default_root_dir=str(out_dir),
    )
    write_whole(trainer)
    try:
        with at_batch_ends():
            trainer.fit(module, datamodule=data, ckpt_path=cfg.ckpt_path, weights_only=True)
    except Exception as error:
        if lost_rank.noticed:  # and said
            raise SystemExit(1) from error
        raise
    if trainer.interrupted:
        raise KeyboardInterrupt
    if "lr" in module.peak:
        tracking.set_tags({"saev.learning_rate": f"{module.peak['lr']:.6g}"})
    keep_end(trainer, checkpoints)
    sae = exported(module, data, source)
    part_ways()
    return sae


def _keep(
    sae: SparseAutoencoder, data: ActivationDataModule, out_dir: Path, tracking: Tracking
) -> None:
    """Exports the folder that others load, and only then hands files to the run and ties it to them."""
    folder = out_dir / "sae"
    sae.save_pretrained(folder)
    tracking.log_artifact(folder, "sae")
    if (out_dir / "checkpoints").is_dir():
        tracking.log_artifact(out_dir / "checkpoints", "checkpoints")
    digests = {"manifest": data.manifest.sha256, "sae": file_sha256(folder / "weights.safetensors")}
    tracking.set_tags({f"saev.sha256.{name}": value for name, value in digests.items()})
