"""Dictionary training for a command: recorded activations, fit, evaluation."""

import logging
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import ProgressBar
from omegaconf import DictConfig

from datamodules.activations.format import require_space
from datamodules.activations.module import ActivationDataModule
from datamodules.activations.position import StreamPosition
from datamodules.images import ImageSource
from saev.backbones import Backbone
from saev.cli.refusals import of_kind
from saev.errors import UserError, first_line
from saev.files import file_sha256
from saev.metrics.collection import NAMES
from saev.recording.record_activations import identity, record_activations, settings_of
from saev.sae import SparseAutoencoder
from saev.stopping import at_batch_ends
from saev.tracking import Tracking, is_main_process
from saev.training.arguments import callbacks_of, count_latents
from saev.training.distributed import part_ways
from saev.training.fit import (
    chosen_precision,
    exported,
    fit_baseline_to,
    in_lockstep,
    running_lockstep,
    start_at_data,
)
from saev.training.resume_points import (
    LAST,
    PREVIOUS,
    LostRank,
    StopAtBatchEnd,
    is_restoring,
    keep_end,
    write_whole,
)
from saev.training.sae_module import SAETraining

log = logging.getLogger(__name__)
FIDELITY = ("kl", "agreement", "accuracy", "cross_entropy")
"""Metrics of each arm where the model's own predictions are compared."""


def train_sae(
    cfg: DictConfig, out_dir: Path, tracking: Tracking, backbone: Backbone, source: ImageSource
) -> dict[str, float]:
    """Trains the dictionary of ``cfg.model``, or fits it where it is a baseline.

    Leaves ``sae/`` and what an evaluation leaves.

    Raises:
        UserError: one sentence on what cannot be done and what to set.
    """
    check_start(cfg, backbone, source, out_dir)
    module = instantiate(cfg.model, d_model=backbone.width)
    if not isinstance(module, SAETraining):
        from saev.sae.baselines import Baseline

        module = of_kind("model", module, Baseline)
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
    commands = [f"python -m saev.evaluate {override('sae', out_dir / 'sae')}", tracking.look]
    if trained:
        commands.insert(1, "python -m saev.train -m model.k=16,32,64")
    print_next(commands)
    return metrics


def check_start(cfg: DictConfig, backbone: Backbone, source: ImageSource, out_dir: Path) -> None:
    """Raises UserError for what would be refused only after the recording, or at the end of the run."""
    for node in ("data", "evaluation"):
        if cfg[node] is None:
            raise UserError(f"{node} is null, and a dictionary is not trained without it")
    check_objective(cfg.objective, cfg.evaluation.fidelity)
    if not source.split("heldout"):
        raise UserError(
            f"the image source {source.name!r} has no held-out images to evaluate on; "
            "give it a val or test folder, or set images.val_fraction above 0"
        )
    batch, mixed = cfg.data.batch_size, cfg.data.reservoir_tokens
    if mixed < batch:
        raise UserError(
            f"data.reservoir_tokens={mixed} must be at least data.batch_size={batch}; several times "
            "as much mixes better"
        )
    if "dir" not in cfg.data and cfg.trainer.devices not in (1, "auto"):
        raise UserError(
            f"data=streaming trains on one device and trainer.devices={cfg.trainer.devices}; set "
            "trainer.devices=1, or record with data=tars"
        )
    if cfg.trainer.devices not in (1, "auto"):  # this one is asked for now, not after the recording
        L.Fabric(accelerator=cfg.trainer.accelerator, devices=cfg.trainer.devices)
    per_image = cfg.tokens.n_per_image or len(backbone.token_indices(cfg.tokens.which))
    n_tokens = len(source.split("train")) * per_image
    if not cfg.data.get("dir") and cfg.data.get("drop_last", True) and n_tokens < batch:
        raise UserError(
            f"there are {n_tokens} tokens to train on, {per_image} an image, and they are fewer than one "
            f"batch: lower data.batch_size={batch}, or take more images"
        )
    check_size(cfg, backbone.width, out_dir)


def check_objective(objective: str, fidelity: bool) -> None:
    """Raises UserError for a metric that the evaluation of a dictionary does not give."""
    stage, _, name = objective.partition("/")
    if stage in ("val", "val_all", "untrained") and name in NAMES:
        return
    if stage == "fidelity":
        from saev.editing import ARMS

        if not fidelity:
            raise UserError(f"objective={objective} needs evaluation.fidelity=true")
        metric, _, arm = name.partition("/")
        if name == "kl_recovered" or (metric in FIDELITY and arm in ARMS):
            return
    raise UserError(
        f"objective={objective} is no metric of a dictionary; choose one of "
        f"{', '.join(f'val/{one}' for one in NAMES)}, the same of val_all or untrained, "
        "fidelity/kl_recovered, or another line of a run's metrics.json"
    )


def check_size(cfg: DictConfig, d_model: int, out_dir: Path) -> None:
    """Raises UserError where the dictionary fits neither into this machine's memory nor on its disk.

    Held are weights, gradients and two moments; written are two checkpoints, one more while it is
    replaced, and the export.
    """
    d_sae, expansion = cfg.model.get("d_sae"), cfg.model.get("expansion")
    if d_sae is None and expansion is None:
        return
    n_bytes = 4 * 2 * d_model * count_latents(d_model, d_sae, expansion)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if 4 * n_bytes > memory:
        raise UserError(
            f"model.{'expansion' if d_sae is None else 'd_sae'}={expansion if d_sae is None else d_sae} "
            f"makes a dictionary that takes {4 * n_bytes / 1e9:.3g} GB to train, and this machine has "
            f"{memory / 1e9:.3g} GB of memory"
        )
    require_space(out_dir, (3 * 3 + 1) * n_bytes, "the run, with its checkpoints,")


def check_resumable(module: SAETraining, ckpt_path: str | None) -> None:
    """Raises UserError unless the checkpoint is readable and of a dictionary of the same shape."""
    if ckpt_path is None:
        return
    path = Path(ckpt_path)
    if not path.is_file():
        raise UserError(f"ckpt_path={ckpt_path} is not a file; give a run's checkpoints/last.ckpt")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
        tensors = {name: tensor for name, tensor in state.items() if tensor.ndim >= 0}
    except (
        pickle.UnpicklingError, RuntimeError, KeyError, EOFError, OSError, TypeError, AttributeError,
    ) as error:  # fmt: skip
        raise UserError(
            f"ckpt_path={ckpt_path} is damaged or not a checkpoint of saev.train; "
            f"{_older_than(path)}, or leave it out to start again"
        ) from error
    here = module.state_dict()
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise UserError(
                f"ckpt_path={ckpt_path} has values in {name} that are not finite: the training diverged; "
                f"{_older_than(path)}"
            )
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
        for callback in callbacks_of(cfg):
            check_monitor(getattr(callback, "monitor", None))
            if check := getattr(callback, "check", None):
                check(module, n_tokens)
    except ValueError as error:
        raise UserError(str(error)) from error


def check_monitor(monitor: str | None) -> None:
    """Raises UserError for a validation metric that there is not."""
    stage, _, name = (monitor or "train/").partition("/")
    if stage != "train" and not (stage in ("val", "val_all") and name in NAMES):
        raise UserError(
            f"a callback monitors {monitor}, which is not logged; choose one of "
            f"{', '.join(f'val/{one}' for one in NAMES)}, or the same of val_all"
        )


def _data(cfg: DictConfig, backbone: Backbone, source: ImageSource, shape: Any) -> StreamPosition:
    """What is recorded, in ``data.dir`` or for backbone, layer, tokens and images; or a stream of them."""
    make = instantiate(cfg.data, _partial_=True)
    if "dir" not in cfg.data:
        device = cfg.data.device or L.Fabric(accelerator=cfg.trainer.accelerator, devices=1).device
        settings = {key: cfg.tokens[key] for key in ("which", "n_per_image")}
        data = make(
            backbone=backbone, source=source, tokens=settings["which"],
            n_per_image=settings["n_per_image"], token_seed=cfg.record.seed, device=device,
        )  # fmt: skip
        return in_lockstep(of_kind("data", data, StreamPosition))
    folder = cfg.data.dir
    if not folder:
        device = L.Fabric(accelerator=cfg.trainer.accelerator, devices=1).device
        folder = record_activations(backbone, source, **settings_of(cfg), device=device).path
    data = of_kind("data", make(dir=str(folder)), ActivationDataModule)
    belongs_to = {"backbone": identity(backbone), "layer": backbone.layer}
    data.check_backbone(replace(shape, **belongs_to))
    return in_lockstep(data)


def _train(
    cfg: DictConfig, module: SAETraining, data: StreamPosition, source: ImageSource,
    out_dir: Path, tracking: Tracking,
) -> SparseAutoencoder:  # fmt: skip
    """Fits ``module`` as ``cfg.trainer`` and ``cfg.callbacks`` say; checkpoints are for resuming."""
    start_at_data(module, data, cfg.seed, resumes=cfg.ckpt_path is not None)
    precision = _precision(cfg, module, data)
    checkpoints = out_dir / "checkpoints"
    lost_rank = LostRank(checkpoints / LAST)
    callbacks, more = callbacks_of(cfg), {}
    if (lockstep := running_lockstep()) is not None and not lockstep.leads:
        callbacks = [one for one in callbacks if not isinstance(one, ProgressBar)]
        more = {"enable_progress_bar": False}
    trainer = instantiate(
        cfg.trainer,
        precision=precision,
        logger=tracking.lightning_logger() or False,
        callbacks=[*callbacks, StopAtBatchEnd(checkpoints / LAST), lost_rank],
        default_root_dir=str(out_dir),
        **more,
    )
    write_whole(of_kind("trainer", trainer, L.Trainer))
    try:
        with at_batch_ends():
            trainer.fit(module, datamodule=data, ckpt_path=cfg.ckpt_path, weights_only=True)
    except Exception as error:
        if lost_rank.noticed:  # and said
            raise SystemExit(1) from error
        if is_restoring(error):
            raise UserError(
                f"ckpt_path={cfg.ckpt_path} cannot be gone on with ({type(error).__name__}: "
                f"{first_line(error)}); give a checkpoint of this very configuration, or leave it out to "
                "start again"
            ) from error
        raise
    if trainer.interrupted:
        raise KeyboardInterrupt
    if "lr" in module.peak:
        tracking.set_tags({"saev.learning_rate": f"{module.peak['lr']:.6g}"})
    tracking.set_tags({"saev.precision": precision})
    keep_end(trainer, checkpoints)
    sae = exported(module, data, source)
    part_ways()
    return sae


def _precision(cfg: DictConfig, module: SAETraining, data: StreamPosition) -> str:
    """That of the run, or of the one it goes on from, which an equal machine might choose otherwise."""
    if cfg.ckpt_path is not None and cfg.trainer.precision == "auto":
        state = torch.load(cfg.ckpt_path, map_location="cpu", weights_only=True, mmap=True)
        kept = state.get("sae")
        precision = kept.get("precision") if isinstance(kept, dict) else None
        if precision in ("32-true", "bf16-mixed"):
            module.precision = precision
            return precision
    trainer = cfg.trainer
    return chosen_precision(
        str(trainer.precision), module, data, trainer.accelerator, trainer.devices
    )


def _keep(sae: SparseAutoencoder, data: StreamPosition, out_dir: Path, tracking: Tracking) -> None:
    """Exports the folder that others load, and only then hands files to the run and ties it to them."""
    folder = out_dir / "sae"
    sae.save_pretrained(folder)
    tracking.log_artifact(folder, "sae")
    if (out_dir / "checkpoints").is_dir():
        tracking.log_artifact(out_dir / "checkpoints", "checkpoints")
    digests = {"sae": file_sha256(folder / "weights.safetensors")}
    if sae.cfg.manifest_sha256 is not None:
        digests["manifest"] = sae.cfg.manifest_sha256
    tracking.set_tags({f"saev.sha256.{name}": value for name, value in digests.items()})
