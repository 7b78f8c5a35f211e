"""``python -m saev.train``: activation tars → sparse autoencoder → evaluation, as one tracked run.

Records the activations first when they are not there yet. The run folder holds ``config.yaml``,
``checkpoints/``, ``sae/``, ``metrics.json`` and ``figures/``; with ``task=head`` a ``head/`` instead
of ``sae/``.
"""

import logging
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from saev.cli.command import command, refuse_multirun_ddp
from saev.cli.refusals import of_kind
from saev.cli.tracked_run import tracked_run

log = logging.getLogger(__name__)


def train(cfg: DictConfig) -> dict[str, float]:
    """Trains what ``cfg.task`` says, by default one dictionary; returns what ``metrics.json`` holds.

    Raises:
        UserError: one sentence on what cannot be done and what to set.
    """
    import lightning as L

    from datamodules.images import ImageSource
    from saev.backbones import Backbone

    refuse_multirun_ddp(cfg)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    out_dir = Path(cfg.paths.run)
    with tracked_run(cfg, out_dir, verb="train") as tracking:
        backbone = of_kind("backbone", instantiate(cfg.backbone), Backbone)
        source = of_kind("images", instantiate(cfg.images), ImageSource)
        metrics = instantiate(cfg.task)(cfg, out_dir, tracking, backbone, source)
    return metrics


@command("train")
def main(cfg: DictConfig) -> float | None:
    """Returns the sweeper's objective."""
    metrics = train(cfg)
    if metrics and cfg.objective not in metrics:
        log.warning("objective=%s is not in metrics.json: nothing for a sweep", cfg.objective)
    return metrics.get(cfg.objective)


if __name__ == "__main__":
    main()
