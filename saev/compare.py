"""``python -m saev.compare saes=[A,B]``: what two or more dictionaries share, and what one lacks.

Leaves ``comparison/`` in the run folder: ``matches.parquet``, ``concepts.parquet``,
``drives.parquet`` and ``index.html``.
"""

import json
from pathlib import Path

import lightning as L
from hydra.utils import instantiate
from omegaconf import DictConfig

from saev.errors import UserError
from saev.experiment import tracked_run
from saev.experiment.atlas.code_pass import ImageList
from saev.experiment.comparison.page import write_comparison_page
from saev.experiment.comparison.tables import (
    CompareSettings,
    concept_comparison,
    drive_table,
    encode_member,
    match_table,
    summary,
)
from saev.experiment.dictionary import images_for, open_dictionary
from saev.tracking import command, print_next, print_table


def compare(cfg: DictConfig) -> dict[str, float]:
    """Compares the dictionaries that ``cfg.saes`` names; returns what ``metrics.json`` holds.

    Raises:
        UserError: fewer than two dictionaries, names or weights that do not fit, or other bad input.
    """
    names = _names(cfg)
    out_dir = Path(cfg.paths.run)
    folder = out_dir / "comparison"
    with tracked_run(cfg, out_dir, verb="compare") as tracking:
        weights = cfg.weights or [None] * len(names)
        opened = [open_dictionary(s, w) for s, w in zip(cfg.saes, weights, strict=True)]
        source = images_for(opened[0][0], cfg.saes[0], cfg.images)
        more = {name: instantiate(node) for name, node in (cfg.more_images or {}).items()}
        settings = CompareSettings(**cfg.comparison)
        images = ImageList.of({source.name: source, **more}, settings.n_images)
        device = L.Fabric(accelerator=cfg.trainer.accelerator, devices=1).device
        members = [
            encode_member(name, *pair, images, folder, settings, device)
            for name, pair in zip(names, opened, strict=True)
        ]
        matches = match_table(members, settings)
        concepts = concept_comparison(members, images, settings)
        drives = drive_table(members, matches, images, settings, device)
        for name, frame in (("matches", matches), ("concepts", concepts), ("drives", drives)):
            frame.to_parquet(folder / f"{name}.parquet", index=False)
            tracking.log_artifact(folder / f"{name}.parquet", "comparison")
        metrics = summary(matches, concepts, settings.fdr)
        path = out_dir / "metrics.json"
        path.write_text(json.dumps(metrics, indent=2, sort_keys=True) + "\n")
        tracking.log_metrics(metrics)
        tracking.log_artifact(path)
        write_comparison_page(members, images, matches, concepts, drives, metrics, folder)
    rows = [[name, f"{value:.4g}"] for name, value in sorted(metrics.items())]
    print_table("The comparison in numbers", ["", "value"], rows)
    print_next([f"xdg-open {folder / 'index.html'}"])
    return metrics


def _names(cfg: DictConfig) -> list[str]:
    if len(cfg.saes) < 2:
        raise UserError(f"saes holds {len(cfg.saes)}; give two or more: saes=[A/sae,B/sae]")
    names = (
        list(cfg.names) if cfg.names is not None else [chr(97 + i) for i in range(len(cfg.saes))]
    )
    if len(names) != len(cfg.saes) or len(set(names)) < len(names):
        raise UserError(
            f"names={names} must be {len(cfg.saes)} different names, one for each of saes"
        )
    if cfg.weights is not None and len(cfg.weights) != len(cfg.saes):
        raise UserError(
            f"weights holds {len(cfg.weights)} entries for {len(cfg.saes)} dictionaries"
        )
    return names


@command("compare")
def main(cfg: DictConfig) -> None:
    compare(cfg)


if __name__ == "__main__":
    main()
