"""Fit of one dictionary with Lightning, from recorded activations to an exported folder."""

import logging
import pickle
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.utils import instantiate
from jaxtyping import Float
from omegaconf import DictConfig
from torch import Tensor

from datamodules.activations.format import Manifest
from datamodules.activations.module import ActivationDataModule
from datamodules.images import ImageSource
from saev.errors import UserError
from saev.sae import SparseAutoencoder
from saev.sae.threshold import calibrate_threshold_
from saev.tracking import Tracking, file_sha256
from saev.training.distributed import broadcast_from_first, part_ways
from saev.training.lost_rank import LostRank
from saev.training.sae_module import SAETraining

log = logging.getLogger(__name__)

POOL_TOKENS = 16_384
"""Tokens from which the decoder bias starts: several batches, drawn from many images."""

CALIBRATION_TOKENS = 65_536
"""Tokens on which BatchTopK's threshold is measured when training ends."""


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
            "give an older one, or leave it out to start again"
        ) from error
    here = module.state_dict()
    for name, tensor in state.items():
        if name in here and here[name].shape != tensor.shape:
            raise UserError(
                f"ckpt_path={ckpt_path} holds {name} of shape {tuple(tensor.shape)}, this run has "
                f"{tuple(here[name].shape)}; set the backbone, model.expansion or model.d_sae it "
                "was trained with"
            )


def check_schedules(module: SAETraining, cfg: DictConfig) -> None:
    """Builds the callbacks once; raises UserError where one, or a schedule, does not go with the
    length of the run."""
    steps = cfg.trainer.max_steps
    n_tokens = steps * cfg.data.batch_size if steps and steps > 0 else float("inf")
    callbacks = [instantiate(node) for node in (cfg.callbacks or {}).values() if node is not None]
    try:
        module.check_length(steps if steps is not None else -1)
        for callback in callbacks:
            if check := getattr(callback, "check", None):
                check(module, n_tokens)
    except ValueError as error:
        raise UserError(str(error)) from error


def fit_dictionary(
    cfg: DictConfig,
    module: SAETraining,
    data: ActivationDataModule,
    source: ImageSource | None,
    out_dir: Path,
    tracking: Tracking,
) -> SparseAutoencoder:
    """Fits ``module`` on ``data`` as ``cfg.trainer`` and ``cfg.callbacks`` say; exports the result.

    The folder ``sae/`` in ``out_dir`` is what others load; checkpoints are for resuming. With a
    ``source`` the SAE also says which images it was trained on.
    """
    data.prepare_data()
    # once more, as recording may have drawn numbers or may have been done in an earlier run
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    statistics = data.statistics
    module.set_data_statistics(torch.tensor(statistics.mean), statistics.scale, statistics.max_norm)
    if cfg.ckpt_path is None:
        module.initialize_from(training_pool(data))
    last = out_dir / "checkpoints" / "last.ckpt"
    lost_rank = LostRank(last)
    callbacks = [instantiate(node) for node in (cfg.callbacks or {}).values() if node is not None]
    trainer: L.Trainer = instantiate(
        cfg.trainer,
        logger=tracking.lightning_logger() or False,
        callbacks=[*callbacks, lost_rank],
        default_root_dir=str(out_dir),
    )
    try:
        trainer.fit(module, datamodule=data, ckpt_path=cfg.ckpt_path, weights_only=True)
    except Exception as error:
        if lost_rank.noticed:  # and said
            raise SystemExit(1) from error
        raise
    if trainer.interrupted:
        raise KeyboardInterrupt
    trainer.save_checkpoint(last)  # where training ended
    manifest = data.manifest
    sae = module.export(**provenance_of(manifest, source))
    if sae.cfg.activation == "batch_topk":
        threshold = calibrate_threshold_(
            sae, [training_pool(data, CALIBRATION_TOKENS).to(sae.W_enc.device)]
        )
        broadcast_from_first(threshold)
    part_ways()
    if trainer.is_global_zero:
        folder = sae.save_pretrained(out_dir / "sae")
        tracking.log_artifact(folder, "sae")
        tracking.log_artifact(out_dir / "checkpoints", "checkpoints")
        tracking.set_tags({"saev.sha256.manifest": manifest.sha256, **sae_tags(folder)})
    return sae


def provenance_of(manifest: Manifest, source: ImageSource | None) -> dict[str, Any]:
    """Fields of ``SAEConfig`` that say what a dictionary was fitted to."""
    return {
        "backbone": manifest.backbone,
        "layer": manifest.layer,
        "tokens": manifest.tokens,
        "manifest_id": manifest.id,
        "manifest_sha256": manifest.sha256,
        "images": source.spec() if source is not None else None,
    }


def sae_tags(folder: Path) -> dict[str, str]:
    """Tags that tie a run to the dictionary it made or used."""
    return {"saev.sha256.sae": file_sha256(folder / "weights.safetensors")}


def training_pool(data: ActivationDataModule, n_tokens: int = POOL_TOKENS) -> Float[Tensor, "n d"]:
    """Tokens of the training stream, which come from many images."""
    data.setup("fit")
    batches, n = [], 0
    for batch in data.train_dataloader():
        batches.append(batch.acts)
        n += len(batch.acts)
        if n >= n_tokens:
            break
    return torch.cat(batches)[:n_tokens]
