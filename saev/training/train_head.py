"""Head training for a command: cached features, a grid of members, scores on held-out images."""

from __future__ import annotations

import math
from pathlib import Path

import lightning as L
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig

from datamodules.features import FeatureDataModule
from datamodules.images import ImageSource
from saev.backbones import Backbone
from saev.cli.console import override, print_next, print_table
from saev.cli.refusals import of_kind
from saev.cli.results import device_of, keep_metrics
from saev.errors import UserError
from saev.evaluation.heads import evaluate_head, evaluate_recorded
from saev.heads import TrainedHead
from saev.heads.class_rows import ClassRows
from saev.heads.reading import Reading
from saev.heads.targets import class_names_of, labels_of
from saev.recording.final_features import record_features
from saev.stopping import at_batch_ends
from saev.tracking import Tracking
from saev.training.arguments import callbacks_of
from saev.training.head_module import HeadTraining
from saev.training.resume_points import StopAtBatchEnd, keep_end, write_whole

MAX_CLASSES = 30
"""Rows of the table per class: ADE20K's or ImageNet's would fill screens; metrics.json has all."""

SCORES = {
    "class": ("accuracy", "cross_entropy", "ece"),
    "segmentation": ("miou", "pixel_accuracy", "patch_miou", "patch_accuracy"),
}
"""Metrics on test images, by what a head predicts."""


def train_head(
    cfg: DictConfig, out_dir: Path, tracking: Tracking, backbone: Backbone, source: ImageSource
) -> dict[str, float]:
    """Trains the grid of ``cfg.model`` on features of ``source`` and keeps its best member.

    Leaves ``head/`` and ``metrics.json`` in ``out_dir`` and on the run, prints the tables, and
    returns the metrics: ``selection/…`` of the chosen member on the training images that chose it,
    ``test/…`` on the test split (on all held-out images where there is none).

    Raises:
        UserError: no labels or masks, features that the backbone lacks, several devices, a
            checkpoint to resume from, no held-out images.
    """
    kind = _kind_of(cfg)
    class_names = class_names_of(source, kind)
    Reading.of(cfg.model.features, backbone)  # refused before anything is recorded
    check_head_objective(cfg.objective, kind)
    sizes = {"n_features": backbone.width, "n_classes": len(class_names)}
    of_kind("model", instantiate(cfg.model, **sizes), HeadTraining)  # refused now
    split = _test_split(source)
    trainer = _trainer(cfg, out_dir, tracking)
    folder = _features(cfg, backbone, source)
    data: FeatureDataModule = instantiate(
        cfg.features,
        dir=str(folder),
        labels=labels_of(source, backbone, kind),
        n_classes=len(class_names),
    )
    module: HeadTraining = instantiate(cfg.model, n_features=data.width, n_classes=len(class_names))
    data.prepare_data()
    data.setup("fit")
    assert data.training is not None
    module.set_statistics(data.training.rows)
    write_whole(trainer)
    with at_batch_ends():
        trainer.fit(module, datamodule=data)
    if trainer.interrupted:
        raise KeyboardInterrupt
    keep_end(trainer, out_dir / "checkpoints")  # with all members
    trainer.validate(module, datamodule=data, verbose=False)
    recipe = {"images": source.spec(), "features_id": data.manifest.id, **data.n_images}
    head = module.export(backbone, class_names, {**recipe, "n_steps": trainer.global_step})
    best = module.members[module.best]
    tests = evaluate_recorded(head, folder, backbone, source, split)
    scores = {
        "selection/score": best.score,
        "selection/cross_entropy": best.cross_entropy,
        **{f"test/{key}": value for key, value in tests.items()},
    }
    _show_grid(module, data)
    return keep_head(head, scores, out_dir, tracking, len(source.split(split)))


def build_class_rows(
    cfg: DictConfig, out_dir: Path, tracking: Tracking, backbone: Backbone, source: ImageSource
) -> dict[str, float]:
    """Makes the head of ``cfg.model`` (a ``ClassRows``) and scores it on ``source``, untrained.

    Leaves what ``train_head`` leaves; the metrics are ``test/…`` alone, over the images whose class
    the head knows.

    Raises:
        UserError: rows, names, model and images that do not fit together.
    """
    check_head_objective(cfg.objective, "class_rows")
    split = _test_split(source)
    recipe = of_kind("model", instantiate(cfg.model), ClassRows)
    head = recipe.build(backbone, source.class_names)
    device = device_of(cfg.trainer.accelerator)
    settings = cfg.record
    scores = evaluate_head(
        head,
        backbone,
        source,
        split,
        batch_size=settings.batch_size,
        num_workers=settings.num_workers,
        device=device,
    )
    tests = {f"test/{key}": value for key, value in scores.items()}
    return keep_head(head, tests, out_dir, tracking, len(source.split(split)))


def check_head_objective(objective: str, kind: str) -> None:
    """Raises UserError for a metric that a head of this kind does not leave."""
    known = [
        f"test/{name}" for name in SCORES["segmentation" if kind == "segmentation" else "class"]
    ]
    if kind != "class_rows":
        known += ["selection/score", "selection/cross_entropy"]
    stage, _, name = objective.partition("/")
    of_a_class = stage == "test" and name.startswith(("accuracy/", "iou/"))
    if objective not in known and not of_a_class:
        raise UserError(
            f"objective={objective} is no metric of a head; choose one of {', '.join(known)}"
        )


def keep_head(
    head: TrainedHead,
    scores: dict[str, float],
    out_dir: Path,
    tracking: Tracking,
    n_images: int,
) -> dict[str, float]:
    """Writes ``head/`` and ``metrics.json``, logs both and prints the scores; returns the metrics.

    Classes that do not occur (nan) are shown in the table and have no entry in the metrics.
    """
    folder = head.save(out_dir / "head")
    tracking.log_artifact(folder, "head")
    metrics = {key: value for key, value in scores.items() if math.isfinite(value)}
    keep_metrics(metrics, out_dir, tracking)
    _show_scores(head, scores, n_images)
    print_next([f"python -m saev.evaluate sae=DIR {override('head', folder)}", tracking.look])
    return metrics


def _kind_of(cfg: DictConfig) -> str:
    """The module's kind, before there is one: its size is known once features are recorded."""
    return get_class(cfg.model._target_).kind


def _test_split(source: ImageSource) -> str:
    split = "test" if source.split("test") else "heldout"
    if not source.split(split):
        raise UserError(
            f"the image source {source.name!r} has no held-out images to test a head on; give it a "
            "val or test folder, or set images.val_fraction above 0"
        )
    return split


def _trainer(cfg: DictConfig, out_dir: Path, tracking: Tracking) -> L.Trainer:
    if cfg.ckpt_path is not None:
        raise UserError(
            "a head trains in a minute and does not resume: leave ckpt_path out; features that are "
            "recorded already are used again"
        )
    trainer = instantiate(
        cfg.trainer,
        precision="32-true" if cfg.trainer.precision == "auto" else cfg.trainer.precision,
        logger=tracking.lightning_logger() or False,
        callbacks=[*callbacks_of(cfg), StopAtBatchEnd(None)],
        default_root_dir=str(out_dir),
    )
    trainer = of_kind("trainer", trainer, L.Trainer)
    if trainer.world_size > 1:
        raise UserError(
            f"heads train on one device and trainer.devices asks for {trainer.world_size}; "
            "set trainer.devices=1"
        )
    return trainer


def _features(cfg: DictConfig, backbone: Backbone, source: ImageSource) -> Path:
    fabric = L.Fabric(accelerator=cfg.trainer.accelerator, devices=1)
    settings = cfg.record
    return record_features(
        backbone.to(fabric.device),
        source,
        cfg.model.features,
        settings.root,
        dtype=settings.dtype,
        images_per_shard=settings.images_per_shard,
        seed=settings.seed,
        batch_size=settings.batch_size,
        num_workers=settings.num_workers,
        precision=str(settings.precision),
        fabric=fabric,
    )


def _show_grid(module: HeadTraining, data: FeatureDataModule) -> None:
    n_images, n_selection = data.n_images["n_images"], data.n_images["n_selection_images"]
    rows = [
        [
            f"{member.learning_rate:g}", f"{member.weight_decay:g}", f"{member.score:.4f}",
            f"{member.cross_entropy:.4f}", "chosen" if number == module.best else "",
        ]
        for number, member in enumerate(module.members)
    ]  # fmt: skip
    print_table(
        f"Heads trained on {n_images - n_selection:,} images, on {n_selection:,} others of the training "
        "split; the chosen one was then trained on all of them",
        ["learning rate", "weight decay", module.SCORE.replace("_", " "), "cross-entropy", ""],
        rows,
    )


def _show_scores(head: TrainedHead, scores: dict[str, float], n_images: int) -> None:
    tests = {k.removeprefix("test/"): v for k, v in scores.items() if k.startswith("test/")}
    rows = [[key.replace("_", " "), f"{v:.4f}"] for key, v in tests.items() if "/" not in key]
    print_table(f"{head.name} head on {n_images:,} test images", ["", "value"], rows)
    per_class = {key: value for key, value in tests.items() if "/" in key}
    title = f"Per class, {next(iter(per_class), '').partition('/')[0]}"
    if len(per_class) > MAX_CLASSES:
        occurring = sorted((v, key) for key, v in per_class.items() if not math.isnan(v))
        per_class = {key: value for value, key in occurring[:MAX_CLASSES]}
        title += f": the lowest {len(per_class)} of the {len(occurring)} that occur"
    print_table(
        title,
        ["class", "value"],
        [
            [key.partition("/")[2], "–" if math.isnan(value) else f"{value:.4f}"]
            for key, value in per_class.items()
        ],
    )
