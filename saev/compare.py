"""``python -m saev.compare saes=[A,B]``: what two or more dictionaries share, and what one lacks.

Leaves ``comparison/`` in the run folder: ``matches.parquet``, ``concepts.parquet``, ``power.parquet``,
``drives.parquet``, figures and ``index.html``.
"""

from pathlib import Path
from types import NoneType

from hydra.utils import instantiate
from omegaconf import DictConfig

from saev.cli.command import command
from saev.cli.console import print_next, print_table
from saev.cli.refusals import of_kind
from saev.cli.tracked_run import tracked_run
from saev.errors import UserError


def compare(cfg: DictConfig) -> dict[str, float]:
    """Compares the dictionaries that ``cfg.saes`` names; returns what ``metrics.json`` holds.

    Raises:
        UserError: fewer than two dictionaries, names or weights that do not fit, or other bad input.
    """
    from datamodules.images import ImageSource
    from saev.cli.results import device_of, keep_metrics
    from saev.comparison.comparison import make_comparison
    from saev.comparison.members import CompareSettings
    from saev.comparison.page import AtlasLinks
    from saev.loading import open_dictionary, sources_for

    names = _names(cfg)
    atlases = dict(zip(names, _each(cfg, "atlases"), strict=True))
    out_dir = Path(cfg.paths.run)
    folder = out_dir / "comparison"
    settings = CompareSettings(**cfg.comparison)
    with tracked_run(cfg, out_dir, verb="compare") as tracking:
        opened = [
            open_dictionary(sae, weights)
            for sae, weights in zip(cfg.saes, _each(cfg, "weights"), strict=True)
        ]
        for name, (sae, _) in zip(names, opened, strict=True):
            AtlasLinks(atlases[name], sae.cfg.d_sae, folder)  # refused before anything is computed
        images = of_kind("images", instantiate(cfg.images), ImageSource, NoneType)
        more = {
            key: of_kind(f"more_images.{key}", instantiate(node), ImageSource)
            for key, node in (cfg.more_images or {}).items()
        }
        sources = sources_for(opened[0][0], cfg.saes[0], images, more)
        device = device_of(cfg.trainer.accelerator)
        found = make_comparison(
            dict(zip(names, opened, strict=True)), sources, Path(cfg.paths.codes), settings, device
        )
        keep_metrics(found.metrics, out_dir, tracking)
        figures = found.write(
            folder, page=cfg.pages.enabled, thumbnails=cfg.pages.thumbnails, atlases=atlases
        )
        for name in found.tables.files():
            tracking.log_artifact(folder / f"{name}.parquet", "comparison")
        for figure in figures:
            tracking.log_artifact(figure, "figures")
    rows = [[name, f"{value:.4g}"] for name, value in sorted(found.metrics.items())]
    print_table("The comparison in numbers", ["", "value"], rows)
    if cfg.pages.enabled:
        print_next([f"xdg-open {folder / 'index.html'}"])
    return found.metrics


def _names(cfg: DictConfig) -> list[str]:
    from saev.comparison.members import letters

    if len(cfg.saes) < 2:
        raise UserError(f"saes holds {len(cfg.saes)}; give two or more: saes=[A/sae,B/sae]")
    if cfg.names is None:
        return letters(len(cfg.saes))
    names = [str(name) for name in cfg.names]
    if len(names) != len(cfg.saes) or len(set(names)) < len(names):
        raise UserError(
            f"names={names} must be {len(cfg.saes)} different names, one for each of saes"
        )
    return names


def _each(cfg: DictConfig, key: str) -> list[str | None]:
    """One entry for each of ``saes``."""
    values = cfg[key]
    if values is None:
        return [None] * len(cfg.saes)
    if len(values) != len(cfg.saes):
        raise UserError(f"{key} holds {len(values)} entries for {len(cfg.saes)} dictionaries")
    return list(values)


@command("compare")
def main(cfg: DictConfig) -> None:
    compare(cfg)


if __name__ == "__main__":
    main()
