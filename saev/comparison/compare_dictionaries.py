"""Comparison of dictionaries on the same images: the Python call behind ``python -m saev.compare``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from datamodules.progress import progress_bars
from saev.backbones import Backbone
from saev.cli.results import chosen_device
from saev.comparison.comparison import Comparison, make_comparison
from saev.comparison.members import CompareSettings, letters
from saev.defaults import OUTPUTS, defaults, replaced
from saev.errors import UserError
from saev.loading import open_dictionary, sources_for
from saev.sae import SparseAutoencoder
from saev.sources import Images, open_images

COMPARISON, SEED = defaults("compare", "comparison"), defaults("compare")["seed"]

Dictionary = SparseAutoencoder | str | Path


def compare_dictionaries(
    saes: Sequence[Dictionary] | Mapping[str, Dictionary],
    images: Images | None = None,
    *,
    more_images: Mapping[str, Images] | None = None,
    backbones: Sequence[Backbone | nn.Module | str | None] | None = None,
    codes_dir: str | Path = f"{OUTPUTS}/codes",
    seed: int = SEED,
    device: str | torch.device | None = None,
    progress: bool = True,
    **settings: Any,
) -> Comparison:
    """What two or more dictionaries share and what one lacks, as ``python -m saev.compare`` finds it.

    ``compare_dictionaries({"early": a, "late": b}).tables.matches``; ``.figures()`` shows and
    ``.write(folder)`` keeps it.

    Args:
        saes: dictionaries, their folders or ids on the hub; in a list they are called a, b, ….
        images: a source, its name in ``conf/images``, or a folder; None: the images the first
            dictionary was trained on.
        more_images: further sources by name.
        backbones: the models they were trained on, in the same order; None: those they name.
        codes_dir: sparse codes are kept here for the next comparison.
        seed: of permutations and draws.
        device: None: a GPU where there is one.
        progress: whether progress bars are shown.
        settings: keys of ``comparison`` in conf/compare.yaml, such as ``n_images=500``.

    Raises:
        UserError: fewer than two dictionaries, settings that there are not, no images, rows that
            cannot be compared.
    """
    named = (
        dict(saes)
        if isinstance(saes, Mapping)
        else dict(zip(letters(len(saes)), saes, strict=True))
    )
    if len(named) < 2:
        raise UserError(f"saes holds {len(named)}; give two or more dictionaries")
    models = list(backbones) if backbones is not None else [None] * len(named)
    if len(models) != len(named):
        raise UserError(f"backbones holds {len(models)} entries for {len(named)} dictionaries")
    values = CompareSettings(**replaced({**COMPARISON, "seed": seed}, settings, "the comparison"))
    opened = {
        name: open_dictionary(sae, backbone=model)
        for (name, sae), model in zip(named.items(), models, strict=True)
    }
    first = next(iter(named))
    given = open_images(images) if images is not None else None
    more = {key: open_images(one) for key, one in (more_images or {}).items()}
    where = first if isinstance(named[first], SparseAutoencoder) else str(named[first])
    sources = sources_for(opened[first][0], where, given, more)
    with progress_bars(progress):
        return make_comparison(opened, sources, Path(codes_dir), values, chosen_device(device))
