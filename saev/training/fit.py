"""Fit of a dictionary to activations, with Lightning: from tars or arrays to a `SparseAutoencoder`."""

import inspect
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
import torch
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from torch import Tensor

from datamodules.activations.module import ActivationDataModule
from datamodules.activations.position import StreamPosition
from datamodules.images import ImageSource
from datamodules.progress import progress_bars
from saev.defaults import defaults, names, replaced
from saev.errors import UserError
from saev.recording.record_activations import Recording
from saev.sae import SparseAutoencoder
from saev.training.distributed import broadcast_from_first
from saev.training.sae_module import SAETraining

if TYPE_CHECKING:
    from saev.sae.baselines import Baseline

log = logging.getLogger(__name__)

POOL_TOKENS = 16_384
"""Tokens from which weights start: several batches, drawn from many images; at least one a latent."""

CALIBRATION_TOKENS = 65_536
"""Tokens on which BatchTopK's threshold is measured when training ends."""

WORTH_MEASURING = 5e9
"""Operations of a step's encoder product from which on ``trainer.precision=auto`` looks at bfloat16."""

SEED = defaults("train")["seed"]
TOKENS, DATA = defaults("train", "tokens"), defaults("data/tars")
TRAINER = defaults("trainer/default")
KINDS = ("SAETraining", "Baseline")


def fit_dictionary(
    acts: Recording | str | Path | Tensor | np.ndarray,
    *,
    model: str = "topk",
    max_steps: int = TRAINER["max_steps"],
    batch_size: int = DATA["batch_size"],
    reservoir_tokens: int = DATA["reservoir_tokens"],
    num_workers: int = DATA["num_workers"],
    max_norm: float | None = TOKENS["max_norm"],
    seed: int = SEED,
    accelerator: str = TRAINER["accelerator"],
    precision: str = TRAINER["precision"],
    gradient_clip_val: float | None = TRAINER["gradient_clip_val"],
    val_fraction: float = 0.1,
    callbacks: Sequence[L.Callback] = (),
    logger: Any = False,
    out_dir: str | Path | None = None,
    progress: bool = True,
    **settings: Any,
) -> SparseAutoencoder:
    """A dictionary fitted to activations, the same as ``python -m saev.train`` fits.

    ``fit_dictionary(acts, k=32, max_steps=600)``; with ``out_dir`` it is left there, as a folder that
    every command takes.

    Args:
        acts: a recording, the folder or URL of one, or raw activations (n, d) in memory, from
            whatever model and modality.
        model: a file of ``conf/model``: "topk", "batch_topk", "relu", "jump_relu", "gated",
            "matryoshka", …, or a baseline that is fitted in one go: "pca", "kmeans", ….
        max_steps: optimiser steps.
        batch_size: activations per step.
        reservoir_tokens: activations mixed at once; without effect for arrays, which are permuted.
        num_workers: processes that read tars.
        max_norm: activations above this multiple of the median norm do not train; None: no limit.
        seed: of the start and of the order.
        accelerator: "auto", "cpu", "gpu".
        precision: as Lightning's Trainer takes it, or "auto": the faster of float32 and bfloat16 products.
        gradient_clip_val: largest norm of the gradient; None: any.
        val_fraction: share of the rows of an array held out for validation; recordings have their own.
        callbacks: of Lightning, beside the progress bar.
        logger: of Lightning; False: none.
        out_dir: folder to export to.
        progress: whether a progress bar is shown.
        settings: keys of the model's file, such as ``k=32``, ``expansion=8`` or
            ``optimizer={"lr": 2e-3}``.

    Raises:
        UserError: no such model, settings it does not have, activations that nothing can be learned
            from.
        ValueError: a setting out of range.
    """
    from lightning.pytorch.callbacks import Checkpoint
    from lightning.pytorch.utilities.seed import isolate_rng

    source = None
    if isinstance(acts, Recording):
        acts, source = acts.path, acts.images
    with isolate_rng(), progress_bars(progress), lightning_quiet():
        L.seed_everything(seed, workers=True, verbose=False)
        if isinstance(acts, str | Path):
            recorded = ActivationDataModule(
                acts, batch_size=batch_size, reservoir_tokens=reservoir_tokens,
                num_workers=num_workers, seed=seed, max_norm=max_norm,
                **{key: DATA[key] for key in ("drop_last", "verify_checksums", "cache_dir", "cache_gb")},
            )  # fmt: skip
            data: StreamPosition = in_lockstep(recorded)
            width = recorded.manifest.width
        else:
            from datamodules.activations.in_memory import InMemoryActivations

            data = InMemoryActivations(
                acts, batch_size, val_fraction=val_fraction, max_norm=max_norm, seed=seed
            )
            width = data.width
        fitted = build_model(model, width, settings, seed)
        if not isinstance(fitted, SAETraining):
            sae = fit_baseline_to(fitted, data, source)
        else:
            fitted.check_length(max_steps)
            start_at_data(fitted, data, seed)
            precision = chosen_precision(precision, fitted, data, accelerator)
            with TemporaryDirectory() as scratch:
                trainer = L.Trainer(
                    max_steps=max_steps, accelerator=accelerator, precision=precision,  # pyright: ignore
                    gradient_clip_val=gradient_clip_val, callbacks=list(callbacks), logger=logger,
                    enable_progress_bar=progress, default_root_dir=scratch, enable_checkpointing=any(
                        isinstance(one, Checkpoint) for one in callbacks
                    ),
                    limit_val_batches=None if data.has_heldout else 0,
                    **{key: TRAINER[key] for key in _FIXED},
                )  # fmt: skip
                trainer.fit(fitted, datamodule=data)
                if trainer.interrupted:
                    raise KeyboardInterrupt
                sae = exported(fitted, data, source)
    if out_dir is not None:
        sae.save_pretrained(out_dir)
    return sae.cpu()


_FIXED = (
    "devices", "max_epochs", "log_every_n_steps", "val_check_interval", "check_val_every_n_epoch",
    "num_sanity_val_steps", "enable_model_summary",
)  # fmt: skip


@contextmanager
def lightning_quiet() -> Iterator[None]:
    """Within it Lightning does not say which devices there are, nor what else one could install; its
    warnings are heard, apart from one about its own use of torch, which nobody else can heed."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r".isinstance.treespec, LeafSpec.", FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def build_model(
    model: str, d_model: int, settings: Mapping[str, Any], seed: int = SEED
) -> "SAETraining | Baseline":
    """The module of a file of ``conf/model`` with some of its keys replaced.

    Raises:
        UserError: no such file, none of a dictionary, or keys that it does not have.
        ValueError: a value out of range.
    """
    known = [name for name in names("model") if _is_dictionary(name)]
    if model not in known:
        raise UserError(f"model={model!r} is none of {', '.join(known)}")
    values = defaults(f"model/{model}")
    built = get_class(values["_target_"])
    takes = [name for name in inspect.signature(built).parameters if name != "d_model"]
    cfg = replaced(values, settings, f"model={model!r}", takes)
    if built is not SAETraining:  # a baseline is drawn or fitted with a seed of its own
        cfg.setdefault("seed", seed)
    try:
        return instantiate(cfg, d_model=d_model)
    except InstantiationException as error:  # Hydra's words around what the constructor said
        raise error.__cause__ if isinstance(error.__cause__, ValueError) else error from None


def _is_dictionary(name: str) -> bool:
    return str(defaults(f"model/{name}").get("_target_")).endswith(KINDS)


def running_lockstep() -> Any:
    """The ``saev.cli.lockstep.Lockstep`` that this run is a member of, where a launcher has begun one."""
    lockstep = sys.modules.get("saev.cli.lockstep")
    return None if lockstep is None else lockstep.current()


def in_lockstep(data: StreamPosition) -> StreamPosition:
    """The data, or where several runs share a stream this run's view of it."""
    if (lockstep := running_lockstep()) is None:
        return data
    from saev.training.shared_stream import shared

    return shared(data, lockstep)


def start_at_data(
    module: SAETraining, data: StreamPosition, seed: int, *, resumes: bool = False
) -> None:
    """Gives ``module`` the statistics of the data and, unless it goes on from a checkpoint, its start."""
    data.prepare_data()
    module.tokens_per_step = data.batch_size
    # once more, as recording may have drawn numbers or may have been done in an earlier run
    L.seed_everything(seed, workers=True, verbose=False)
    statistics = data.statistics
    module.set_data_statistics(torch.tensor(statistics.mean), statistics.scale, statistics.max_norm)
    if not resumes:
        module.initialize_from(data.pool(max(POOL_TOKENS, module.sae.cfg.d_sae)))


def chosen_precision(
    asked: str, module: SAETraining, data: StreamPosition, accelerator: str, devices: Any = 1
) -> str:
    """What Lightning's Trainer is given; "auto" is measured, and said."""
    if asked != "auto":
        return asked
    cfg = module.sae.cfg
    if devices not in (1, "1"):
        precision, reason = "32-true", "several devices are not measured"
    elif 2 * cfg.d_model * cfg.d_sae * data.batch_size < WORTH_MEASURING:
        precision, reason = "32-true", "a step is too short for bfloat16 products to pay"
    else:
        from saev.training.precision import choose_precision

        device = L.Fabric(accelerator=accelerator, devices=1).device
        acts = data.pool(min(data.batch_size, POOL_TOKENS))
        precision, reason = choose_precision(module, acts, data.batch_size, device)
    log.info("trainer.precision=auto: %s (%s)", precision, reason)
    module.precision = precision
    return precision


def exported(
    module: SAETraining, data: StreamPosition, source: ImageSource | None = None
) -> SparseAutoencoder:
    """What is kept of a trained module; BatchTopK's threshold is measured on training activations.

    Args:
        source: the images of the activations, which the dictionary then names.
    """
    sae = module.export(**provenance_of(data, source))
    if sae.cfg.activation == "batch_topk":
        from saev.sae.threshold import calibrate_threshold_

        threshold = calibrate_threshold_(sae, [data.pool(CALIBRATION_TOKENS).to(sae.W_enc.device)])
        broadcast_from_first(threshold)
    return sae


def fit_baseline_to(
    baseline: "Baseline", data: StreamPosition, source: ImageSource | None = None
) -> SparseAutoencoder:
    """The baseline fitted to training activations, in one go."""
    data.prepare_data()
    statistics = data.statistics
    return baseline.fit(
        data.pool(POOL_TOKENS),
        torch.tensor(statistics.mean),
        statistics.scale,
        statistics.max_norm,
        **provenance_of(data, source),
    )


def provenance_of(data: StreamPosition, source: ImageSource | None) -> dict[str, Any]:
    """Fields of ``SAEConfig`` that say what a dictionary was fitted to; none for an array."""
    found = data.provenance()
    return {**found, "images": source.spec() if source is not None else None} if found else {}
