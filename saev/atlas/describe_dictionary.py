"""Atlas of a dictionary, made from images: the Python call behind ``python -m saev.describe``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from datamodules.progress import progress_bars
from saev.atlas.atlas import Atlas
from saev.atlas.baseline_table import unit_baselines
from saev.atlas.description import make_description, write_tables
from saev.atlas.pages.overview import write_pages
from saev.atlas.settings import AtlasSettings, NamingSettings
from saev.backbones import Backbone, as_backbone
from saev.cli.results import chosen_device, new_run_dir
from saev.codes.images import ImageList
from saev.defaults import defaults, replaced
from saev.errors import UserError
from saev.files import write_table
from saev.loading import open_dictionary, sources_for
from saev.sae import SparseAutoencoder
from saev.sources import Images, open_images

ATLAS, NAMING = defaults("describe", "atlas"), defaults("describe", "naming")
PAGES, SEED = defaults("describe", "pages"), defaults("describe")["seed"]


def describe_dictionary(
    sae: SparseAutoencoder | str | Path,
    images: Images | None = None,
    *,
    more_images: Mapping[str, Images] | None = None,
    backbone: Backbone | nn.Module | str | None = None,
    embedder: Backbone | nn.Module | str | None = None,
    out_dir: str | Path | None = None,
    naming: Mapping[str, Any] | None = None,
    pages: bool | Mapping[str, Any] = PAGES["enabled"],
    seed: int = SEED,
    device: str | torch.device | None = None,
    progress: bool = True,
    **settings: Any,
) -> Atlas:
    """What every latent is, found and named on images, as ``python -m saev.describe`` does it.

    Args:
        sae: a dictionary, its folder or its id on the hub.
        images: a source, its name in ``conf/images``, or a folder; None: the images the dictionary
            was trained on.
        more_images: further sources by name; each may bring labels or masks.
        backbone: the model it was trained on; None: the one it names.
        embedder: a model whose embeddings judge similarity of images; None: the dictionary's own.
        out_dir: run folder, with the atlas in ``latents/``; an interrupted description goes on
            there; None: a new one below ``outputs/runs/describe``.
        naming: keys of ``naming`` in conf/describe.yaml to replace.
        pages: whether the site is written, or keys of ``pages`` to replace.
        seed: of splits, permutations and draws.
        device: None: a GPU where there is one.
        progress: whether progress bars are shown.
        settings: keys of ``atlas`` in conf/describe.yaml, such as ``n_images=500``.

    Raises:
        UserError: no images, settings that there are not, a folder of other codes; parts of other
            processes that are not there yet (``shard``).
    """
    values = replaced({**ATLAS, "seed": seed}, settings, "the atlas")
    atlas = AtlasSettings(**values)
    names = NamingSettings(**replaced(NAMING, naming or {}, "naming"))
    shown = replaced(PAGES, {} if isinstance(pages, bool) else pages, "pages")
    place = chosen_device(device)
    folder = Path(out_dir if out_dir is not None else new_run_dir("describe")) / "latents"
    opened, model = open_dictionary(sae, backbone=backbone)
    name = "the dictionary" if isinstance(sae, SparseAutoencoder) else str(sae)
    given = open_images(images) if images is not None else None
    more = {key: open_images(one) for key, one in (more_images or {}).items()}
    sources = sources_for(opened, name, given, more)
    judge = as_backbone(embedder) if embedder is not None else None
    with progress_bars(progress):
        found = make_description(
            opened, model, sources, folder, atlas, names, embedder=judge, device=place
        )
        if found is None:
            raise UserError(
                f"other processes' parts of {folder / 'codes'} are not there yet; call again when they "
                "have finished"
            )
        write_tables(found, folder)
        if atlas.baseline_images:
            some = ImageList.of(sources, atlas.baseline_images)
            table = unit_baselines(opened, model, some, folder, atlas, place)
            write_table(table, folder / "baselines.parquet")
        if pages is not False and shown.pop("enabled"):
            write_pages(found, opened, model, folder, **shown)
    return Atlas.open(folder)
