"""``python -m saev.describe sae=DIR``: what every latent is, found and named, as tables and pages.

Leaves ``latents/`` in the run folder: ``latents.parquet``, ``concepts.parquet``, exemplars, names,
``index.html``. With ``query`` it searches an atlas that is already there.
"""

from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from saev.cli.command import command
from saev.cli.console import print_next, print_table
from saev.cli.refusals import of_kind
from saev.cli.tracked_run import tracked_run
from saev.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 20
"""Rows printed of a query."""


def describe(cfg: DictConfig) -> dict[str, float]:
    """Describes the dictionary that ``cfg.sae`` names; returns what ``metrics.json`` holds.

    Raises:
        UserError: one sentence on what cannot be done and what to set.
    """
    import lightning as L

    from datamodules.images import ImageSource
    from saev.atlas.baseline_table import unit_baselines
    from saev.atlas.description import make_description, write_tables
    from saev.atlas.pages.overview import write_pages
    from saev.atlas.settings import AtlasSettings, NamingSettings
    from saev.backbones import Backbone
    from saev.cli.results import device_of, keep_metrics
    from saev.codes.images import ImageList
    from saev.files import write_table
    from saev.loading import open_dictionary, sources_for

    if cfg.sae is None:
        raise UserError("sae is not set; give the folder of a dictionary: sae=outputs/runs/…/sae")
    atlas, naming = AtlasSettings(**cfg.atlas), NamingSettings(**cfg.naming)
    out_dir = Path(cfg.paths.run)
    folder = out_dir / "latents"
    is_shared = cfg.atlas.shard[1] > 1
    with tracked_run(cfg, out_dir, verb="describe", is_shared=is_shared) as tracking:
        L.seed_everything(cfg.seed, workers=True, verbose=False)
        sae, backbone = open_dictionary(cfg.sae, cfg.backbone.weights)
        images = of_kind("images", instantiate(cfg.images), ImageSource, NoneType)
        more = {
            key: of_kind(f"more_images.{key}", instantiate(node), ImageSource)
            for key, node in (cfg.more_images or {}).items()
        }
        sources = sources_for(sae, cfg.sae, images, more)
        embedder = of_kind("embedder", instantiate(cfg.embedder), Backbone, NoneType)
        device = device_of(cfg.trainer.accelerator)
        found = make_description(
            sae, backbone, sources, folder, atlas, naming, embedder=embedder, device=device
        )
        if found is None:
            return {}
        write_tables(found, folder)
        if atlas.baseline_images:
            some = ImageList.of(sources, atlas.baseline_images)
            table = unit_baselines(sae, backbone, some, folder, atlas, device)
            write_table(table, folder / "baselines.parquet")
            _show_baselines(table)
        keep_metrics(found.metrics, out_dir, tracking)
        if cfg.pages.enabled:
            shown = {key: value for key, value in cfg.pages.items() if key != "enabled"}
            for figure in write_pages(found, sae, backbone, folder, **shown):
                tracking.log_artifact(figure, "figures")
        for file in sorted(folder.glob("*.parquet")):
            tracking.log_artifact(file, "latents")
    _show(found.metrics)
    print_next(
        [
            f"xdg-open {folder / 'index.html'}",
            f"python -m saev.describe atlas_dir={out_dir} query=WORDS",
        ]
    )
    return found.metrics


def search(atlas_dir: str, query: str) -> list[int]:
    """Prints what an atlas answers (the questions stand in :mod:`saev.atlas.query`); returns the
    latents, best first."""
    from saev.atlas.atlas import Atlas
    from saev.atlas.query import ask, with_examples

    folder = Path(atlas_dir) / "latents"
    atlas = Atlas.open(folder)
    answer = ask(atlas, query)
    shown = with_examples(atlas, answer.table.head(SHOWN))
    rows = [[_cell(value) for value in row] for row in shown.itertuples(index=False)]
    print_table(f"{answer.title}: {len(answer.table)} latents", list(shown.columns), rows)
    if rows:
        print_next([f"xdg-open {folder / 'latent' / rows[0][0]}.html"])
    return answer.table["latent"].tolist()


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "–" if value != value else f"{value:.3g}"
    return "unnamed" if value is None else str(value)


def _show(metrics: dict[str, float]) -> None:
    rows = [[name, f"{value:.4g}"] for name, value in sorted(metrics.items())]
    print_table("The atlas in numbers", ["", "value"], rows)


def _show_baselines(table: "pd.DataFrame") -> None:
    columns = list(table.columns)
    rows = [
        [str(row[0]), *(f"{value:.3g}" for value in row[1:])]
        for row in table.itertuples(index=False)
    ]
    print_table("The same metrics of other readings of the same activations", columns, rows)


@command("describe")
def main(cfg: DictConfig) -> float | None:
    if not isinstance(cfg.atlas, DictConfig):
        raise UserError(f"atlas={cfg.atlas} is not allowed; it must be a mapping of keys")
    if cfg.query is not None:
        if cfg.atlas_dir is None:
            raise UserError("query needs atlas_dir, the run folder of an earlier saev.describe")
        search(cfg.atlas_dir, str(cfg.query))
        return None
    if cfg.atlas_dir is not None:
        raise UserError(
            "atlas_dir is asked with query=WORDS; to go on with an atlas give hydra.run.dir, its folder"
        )
    return describe(cfg).get("latents/named_fraction")


if __name__ == "__main__":
    main()
