"""Causal maps on latent pages: where on its strongest image a latent's code comes from."""

import logging
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F

from datamodules.progress import progress_bar
from saev.atlas.description import Description
from saev.atlas.pages.gallery import Gallery
from saev.attribution.attribute import Attribution, attribute
from saev.backbones import Backbone
from saev.errors import UserError
from saev.pages.site import Picture, signed_uri
from saev.sae import SparseAutoencoder

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

N_STEPS = 16
"""Of the integral: half of what :func:`saev.attribute` takes, for a map that is looked at."""
LARGEST_SIDE = 112
"""Pixels of a tile, which a map need not exceed."""


def evidence_of(
    description: Description, sae: SparseAutoencoder, backbone: Backbone, gallery: Gallery,
    latents: list[int],
) -> dict[int, dict[str, Any]]:  # fmt: skip
    """For each latent its strongest image, with a tile of the causal map, and the map in numbers."""
    found: dict[int, dict[str, Any]] = {}
    with progress_bar("causal maps", len(latents), unit="latents") as advance:
        for latent in latents:
            row = next(gallery.of(latent, "max", 1).itertuples(), None)
            own = None if row is None else _attributed(description, sae, backbone, row)
            if own is not None:
                found[latent] = _shown(own, row, gallery)
            advance(1)
    return found


def choose_evidence(table: "pd.DataFrame", chosen: list[int], n: int) -> list[int]:
    """Of the latents with a page the ``n`` most important."""
    own = table[table["latent"].isin(chosen)].sort_values("importance", ascending=False)
    return own["latent"][:n].tolist()


def _attributed(
    description: Description, sae: SparseAutoencoder, backbone: Backbone, row: Any
) -> Attribution | None:
    pixels = description.images.pixels(int(row.image), backbone)
    if pixels is None:
        return None
    try:
        return attribute(sae, backbone, pixels, int(row.latent), n_steps=N_STEPS)
    except UserError as error:  # a code so near its threshold that another batch rounds it away
        log.warning("no causal map of latent %d on %s: %s", row.latent, row.image_id, error)
        return None


def _shown(own: Attribution, row: Any, gallery: Gallery) -> dict[str, Any]:
    height, width = (min(side, LARGEST_SIDE) for side in own.pixels.shape)
    small = F.adaptive_avg_pool2d(own.pixels[None], (height, width))[0].numpy()
    y, x = divmod(int(own.order[0]), own.patches.shape[1])
    tile = Picture(
        image_id=str(row.image_id),
        caption="what raises it",
        alt=f"image {row.image_id}; what raises latent {own.latent} lies mostly at row {y + 1}, "
        f"column {x + 1} of the patches",
        thumb=gallery.thumb(int(row.image)),
        heat=signed_uri(small),
    )
    change = own.value - own.baseline_value
    numbers = {
        "image_id": str(row.image_id), "method": own.method, "baseline": own.baseline,
        "value": own.value, "baseline_value": own.baseline_value,
        "gap_share": abs(own.gap / change) if change else None,
        "peak": [y, x], "peak_distance": own.peak_distance, "patches": own.patches.tolist(),
    }  # fmt: skip
    return {"tile": tile, "numbers": numbers}
