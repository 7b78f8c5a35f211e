"""Evaluation of an SAE for a command: metrics, tables, figures, all of it on the run."""

from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import nn

from datamodules.images import ImageSource
from datamodules.progress import progress_bars
from saev.backbones import Backbone
from saev.cli.results import chosen_device, device_of, keep_metrics
from saev.defaults import defaults
from saev.evaluation.figures import draw_figures, save_figures
from saev.evaluation.heads import head_fidelity
from saev.evaluation.held_out import Evaluation, evaluate_images
from saev.evaluation.summary import show_metrics
from saev.heads import TrainedHead, load_head
from saev.interop import open_sae
from saev.loading import backbone_of, images_for
from saev.sae import SparseAutoencoder
from saev.sources import Images, open_images
from saev.tracking import Tracking, is_main_process

EVALUATION = defaults("evaluate", "evaluation")


def evaluate_dictionary(
    sae: SparseAutoencoder | str | Path,
    images: Images | None = None,
    *,
    backbone: Backbone | nn.Module | str | None = None,
    head: TrainedHead | str | Path | None = None,
    fidelity: bool = EVALUATION["fidelity"],
    n_images: int | None = EVALUATION["n_images"],
    batch_size: int = EVALUATION["batch_size"],
    num_workers: int = EVALUATION["num_workers"],
    figures: bool = EVALUATION["figures"],
    device: str | torch.device | None = None,
    progress: bool = True,
) -> Evaluation:
    """How good a dictionary is on held-out images, as ``python -m saev.evaluate`` measures it.

    Args:
        sae: a dictionary, its folder or its id on the hub.
        images: a source, its name in ``conf/images`` or a folder, of which everything but the training
            split is used; None: the images the head, else the dictionary, was trained on.
        backbone: the model it was trained on; None: the one it names.
        head: a trained head, or its folder, by whose predictions fidelity is measured; None: the
            model's own classifier, zero-shot or class prototypes.
        fidelity: whether the model is run on with replaced activations.
        n_images: at most so many images.
        batch_size: images per forward pass.
        num_workers: processes that read images.
        figures: whether the figures of the command are drawn.
        device: None: a GPU where there is one.
        progress: whether progress bars are shown.

    Raises:
        UserError: no held-out images, another backbone, or a dictionary that names no images.
    """
    name = "the dictionary" if isinstance(sae, SparseAutoencoder) else str(sae)
    opened = open_sae(sae)
    trained = load_head(head) if isinstance(head, str | Path) else head
    model = backbone_of(opened, name, backbone=backbone, head=trained)
    given = open_images(images) if images is not None else None
    source = images_for(opened, name, given, trained)
    with progress_bars(progress):
        return _evaluate(
            opened, model, source, trained,
            chosen_device(device),
            fidelity=fidelity, n_images=n_images, batch_size=batch_size, num_workers=num_workers,
            figures=figures,
        )  # fmt: skip


def _evaluate(
    sae: SparseAutoencoder, backbone: Backbone, source: ImageSource, head: TrainedHead | None,
    device: torch.device, *, fidelity: bool, n_images: int | None, batch_size: int, num_workers: int,
    figures: bool,
) -> Evaluation:  # fmt: skip
    evaluation = evaluate_images(
        sae,
        backbone,
        source,
        fidelity=fidelity and head is None,
        n_images=n_images,
        batch_size=batch_size,
        num_workers=num_workers,
        device=device,
    )
    if fidelity and head is not None:
        evaluation.head = head.name
        evaluation.metrics |= head_fidelity(
            sae,
            head,
            backbone,
            source,
            n_images=n_images,
            batch_size=batch_size,
            num_workers=num_workers,
            device=device,
        )
    if figures:
        evaluation.figures = draw_figures(evaluation, sae, backbone, source, device=device)
    return evaluation


def evaluate_and_report(
    sae: SparseAutoencoder,
    backbone: Backbone,
    source: ImageSource,
    settings: DictConfig,
    accelerator: str,
    out_dir: Path,
    tracking: Tracking,
    head: TrainedHead | None = None,
    step: int | None = None,
) -> dict[str, float]:
    """Scores the SAE on the held-out images of ``source`` as ``evaluation`` in the config says.

    With a trained ``head`` fidelity is measured by its predictions. ``step`` is the training step
    that the metrics belong to on the run: the last one, or earlier validations would outrank them.

    Leaves ``metrics.json`` and ``figures/`` in ``out_dir`` and on the run, prints the tables, and
    returns the metrics. Only the main process works; the others get an empty result.
    """
    if not is_main_process():
        return {}
    evaluation = _evaluate(
        sae,
        backbone,
        source,
        head,
        device_of(accelerator),
        fidelity=settings.fidelity,
        n_images=settings.n_images,
        batch_size=settings.batch_size,
        num_workers=settings.num_workers,
        figures=settings.figures,
    )
    keep_metrics(evaluation.metrics, out_dir, tracking, step=step)
    if settings.figures:
        for path in save_figures(evaluation.figures, out_dir / "figures"):
            tracking.log_artifact(path, "figures")
    show_metrics(evaluation.metrics, evaluation.head, len(evaluation.items))
    return evaluation.metrics
