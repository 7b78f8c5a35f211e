"""Start-up images: how strongly and how often each latent fires, and on what, before anybody looks.

Suffixes: b images, t p tokens, d width, s latents, k some latents, n codes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from datamodules.images import ImageItem
from saev.codes.exemplars import Exemplars
from saev.codes.part_builder import PartBuilder
from saev.codes.sparse_codes import CodePart
from saev.editing.tokens import encode
from saev.errors import UserError
from saev.intervention.choose.code_table import LatentStats
from saev.intervention.choose.discovery import MAX_CODES, Discovery, discover
from saev.intervention.setting import Setting
from saev.intervention.splits import in_turn

N_TOP = 16
"""Exemplars kept of each latent."""


@dataclass(frozen=True)
class StartUp:
    """What the start-up images say of every latent."""

    items: list[ImageItem]
    """Those that could be read."""
    discovery: Discovery
    """Of the same images: what controls are made of."""
    codes: CodePart
    sorted_values: Float[np.ndarray, " n"]
    """Codes of one latent after the other, each from small to large; starts are ``codes.indptr``."""
    exemplars: Exemplars
    """Image numbers index ``items``."""

    @property
    def stats(self) -> LatentStats:
        """Firing rate, mean and largest code of each latent."""
        return self.discovery.units["sae"].stats

    def percentile(
        self, latents: Int[np.ndarray, " k"], codes: Float[np.ndarray, " k"]
    ) -> Float[np.ndarray, " k"]:
        """Per cent of a latent's codes, where it fires, that are no larger than this one."""
        starts, values = self.codes.indptr, self.sorted_values
        found = np.full(len(latents), np.nan)
        for place, (latent, code) in enumerate(zip(latents, codes, strict=True)):
            own = values[starts[latent] : starts[latent + 1]]
            if len(own):
                # a code is computed again in another batch: a rounding error is no difference
                below = np.searchsorted(own, code * (1 + 1e-5), side="right")
                found[place] = 100 * below / len(own)
        return found


def start_up_items(setting: Setting, n_images: int) -> list[ImageItem]:
    """Training images, those with a label in turn; of a source that has none of them, any.

    Raises:
        UserError: the source is empty.
    """
    items = setting.source.split("train") or setting.source.items
    if not items:
        raise UserError(f"the image source {setting.source.name!r} holds no images; set images=…")
    labelled = [item for item in items if item.label is not None]
    if setting.readout.per == "image" and labelled:
        items = in_turn(labelled)
    return items[:n_images]


@torch.no_grad()
def read_start_up(setting: Setting, items: Sequence[ImageItem]) -> StartUp:
    """One pass: the discovery statistics that controls need, codes and exemplars."""
    tokens, sae = setting.discovery_tokens, setting.sae
    n_tokens = len(tokens.positions)
    builder = PartBuilder(sae.cfg.d_sae, n_tokens)
    exemplars = Exemplars(sae.cfg.d_sae, N_TOP)
    read: list[ImageItem] = []
    step = max(1, MAX_CODES // (n_tokens * sae.cfg.d_sae))

    def watch(batch: list[ImageItem], acts_btd: Float[Tensor, "b t d"]) -> None:
        for first in range(0, len(acts_btd), step):
            one = encode(sae, tokens, acts_btd[first : first + step])
            builder.add(one.z, one.normal)
            numbers = torch.arange(len(one.z)) + len(read) + first
            exemplars.update(one.z * one.normal[..., None], numbers)
        pooled = setting.backbone.resume(acts_btd, setting.layer).pooled
        builder.add_outputs(pooled.float(), None)
        read.extend(batch)

    discovery = discover(setting, list(items), watch)
    codes = builder.build()
    latent = np.repeat(np.arange(codes.n_latents), np.diff(codes.indptr))
    values = codes.value[np.lexsort((codes.value, latent))]
    return StartUp(read, discovery, codes, values, exemplars)
