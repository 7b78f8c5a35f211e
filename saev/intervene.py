"""``python -m saev.intervene hypothesis=FILE sae=DIR head=DIR``: edit latents, measure, judge.

``saes=[A,B,C]`` in place of ``sae`` tests with each dictionary and says what holds over all of them.

Leaves ``report/`` in the run folder: ``verdict.json``, ``effects.parquet``, ``summary.csv`` and a
page, ``index.html``, that opens from disk. What is tested is hashed and logged before a test image
is read.
"""

from pathlib import Path
from types import NoneType

from hydra.utils import instantiate
from omegaconf import DictConfig

from saev.cli.command import command
from saev.cli.console import print_next
from saev.cli.refusals import of_kind
from saev.cli.tracked_run import tracked_run


def intervene(cfg: DictConfig) -> dict[str, float]:
    """Runs the experiment that ``cfg.hypothesis`` describes; returns its flat metrics.

    Raises:
        UserError: one sentence on what cannot be done and what to set.
    """
    from datamodules.images import ImageSource
    from saev.intervention.report.from_config import intervene_and_report

    out_dir = Path(cfg.paths.run)
    with tracked_run(cfg, out_dir, verb="intervene") as tracking:
        images = of_kind("images", instantiate(cfg.images), ImageSource, NoneType)
        metrics = intervene_and_report(cfg, images, out_dir, tracking)
    print_next([f"xdg-open {out_dir / 'report' / 'index.html'}", tracking.look])
    return metrics


@command("intervene")
def main(cfg: DictConfig) -> float:
    """Returns the share of hypotheses that was supported."""
    return intervene(cfg)["intervene/share_supported"]


if __name__ == "__main__":
    main()
