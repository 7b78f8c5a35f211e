"""Setting of an explorer: dictionary, model, head and images that belong together."""

from pathlib import Path

import torch
from torch import nn

from datamodules.images import ImageSource
from saev.atlas.atlas import Atlas
from saev.backbones import Backbone
from saev.cli.results import chosen_device
from saev.errors import UserError
from saev.exploration.edit_arms import UNTRAINED
from saev.exploration.model_answers import MAX_ROWS
from saev.exploration.own_readout import no_readout, readout_for, trained_head_of
from saev.interop import open_sae
from saev.intervention.hypothesis import Hypothesis, Images
from saev.intervention.readout import Readout
from saev.intervention.setting import Setting
from saev.loading import backbone_of, check_belongs, images_for
from saev.sae import SparseAutoencoder
from saev.sources import open_images

BATCH_SIZE = 16


def open_setting(
    sae: str | Path | SparseAutoencoder, head: str | Path | None,
    images: ImageSource | str | Path | None, backbone: Backbone | nn.Module | str | None,
    n_images: int, seed: int, device: str | torch.device | None,
) -> tuple[Setting, Readout | None]:  # fmt: skip
    """As :meth:`saev.exploration.explorer.Explorer.open` takes them; the readout is None without a head.

    Raises:
        UserError: nothing there, or things that do not belong together.
    """
    if n_images < 1:
        raise UserError(f"n_images={n_images} must be 1 or more")
    name = "the dictionary" if isinstance(sae, SparseAutoencoder) else str(sae)
    opened = open_sae(sae)
    trained = trained_head_of(head)
    model = backbone_of(opened, name, backbone=backbone, head=trained)
    check_belongs(opened, model)
    source = images_for(opened, name, None if images is None else open_images(images), trained)
    readout = readout_for(None if head is None else str(head), trained, model, source)
    assert opened.cfg.tokens is not None, "backbone_of refuses such a dictionary"
    file = Hypothesis(
        tokens=opened.cfg.tokens["which"], untrained=UNTRAINED, seed=seed,
        images=Images(n_discovery=n_images),
    )  # fmt: skip
    setting = Setting(
        file, opened, model, readout or no_readout(), source, BATCH_SIZE, MAX_ROWS, 0,
        chosen_device(device),
    )  # fmt: skip
    setting.check()
    return setting, readout


def open_atlas(folder: str | Path | None, d_sae: int) -> Atlas | None:
    """An atlas from the run folder of a description, or from ``latents/`` in it; None for None.

    Raises:
        UserError: nothing there, or an atlas of another dictionary.
    """
    if folder is None:
        return None
    inside = Path(folder) / "latents"
    atlas = Atlas.open(inside if inside.is_dir() else folder)
    if len(atlas.latents) != d_sae:
        raise UserError(
            f"the atlas describes {len(atlas.latents):,} latents and the dictionary has {d_sae:,}: give "
            "the atlas of this dictionary"
        )
    return atlas
