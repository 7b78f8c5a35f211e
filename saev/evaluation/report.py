"""Evaluation of an SAE for a command: metrics, tables, figures, all of it on the run."""

from pathlib import Path

from omegaconf import DictConfig

from datamodules.images import ImageSource
from saev.backbones import Backbone
from saev.cli.results import device_of, keep_metrics
from saev.evaluation.figures import save_figures
from saev.evaluation.heads import head_fidelity
from saev.evaluation.held_out import evaluate_images
from saev.evaluation.summary import show_metrics
from saev.heads import TrainedHead
from saev.sae import SparseAutoencoder
from saev.tracking import Tracking, is_main_process


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
    device = device_of(accelerator)
    evaluation = evaluate_images(
        sae,
        backbone,
        source,
        fidelity=settings.fidelity and head is None,
        n_images=settings.n_images,
        batch_size=settings.batch_size,
        num_workers=settings.num_workers,
        device=device,
    )
    if settings.fidelity and head is not None:
        evaluation.head = head.name
        evaluation.metrics |= head_fidelity(
            sae,
            head,
            backbone,
            source,
            n_images=settings.n_images,
            batch_size=settings.batch_size,
            num_workers=settings.num_workers,
            device=device,
        )
    keep_metrics(evaluation.metrics, out_dir, tracking, step=step)
    if settings.figures:
        for figure in save_figures(
            evaluation, sae, backbone, source, out_dir / "figures", device=device
        ):
            tracking.log_artifact(figure, "figures")
    show_metrics(evaluation.metrics, evaluation.head, len(evaluation.items))
    return evaluation.metrics
