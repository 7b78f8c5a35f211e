"""Patch pass: one over images for all dictionaries of the table.

Suffixes: b images of a batch, p patches, d width, s latents, n images.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from datamodules.images import ImageItem, ImageSource, image_batches
from saev.backbones import Backbone
from saev.errors import UserError
from saev.evaluation.baselines.methods import Contender
from saev.evaluation.baselines.table import PassSettings
from saev.evaluation.held_out import MAX_CODES
from saev.evaluation.visaebench.image_features import ArmFeatures, ImageFeatures
from saev.metrics.visaebench.fvu import fvu, shuffled_reconstructions
from saev.metrics.visaebench.morans_i import PatchMorans, morans_i
from saev.sae import SparseAutoencoder

IMAGES_AT_ONCE = 16
"""Of whose codes Moran's I is taken."""


class _Parts:
    """Collects what one dictionary makes of the images, portion by portion."""

    def __init__(
        self, sae: SparseAutoencoder, grid: tuple[int, int] | None, generator: torch.Generator
    ) -> None:
        self.sae, self.grid, self.generator = sae, grid, generator
        self.found: dict[str, list[np.ndarray]] = defaultdict(list)
        self.patches: list[PatchMorans] = []

    def add(self, x_bpd: Float[Tensor, "b p d"], keep_bp: Bool[Tensor, "b p"]) -> None:
        step = max(1, min(IMAGES_AT_ONCE, MAX_CODES // (x_bpd.shape[1] * self.sae.cfg.d_sae)))
        for first in range(0, len(x_bpd), step):
            self._add(x_bpd[first : first + step], keep_bp[first : first + step])

    def _add(self, x_bpd: Float[Tensor, "b p d"], keep_bp: Bool[Tensor, "b p"]) -> None:
        z_bps = self.sae.encode(x_bpd)
        x_hat_bpd = self.sae.decode(z_bps, x_bpd) * keep_bp[..., None]
        z_bps, x_bpd = z_bps * keep_bp[..., None], x_bpd * keep_bp[..., None]
        dealt_bpd = x_hat_bpd.clone()
        dealt_bpd[keep_bp] = shuffled_reconstructions(x_hat_bpd[keep_bp][None], self.generator)[0]
        for name, value in {
            "codes_ns": z_bps.amax(1).float().cpu().numpy(),
            "total_hat_nd": x_hat_bpd.double().sum(1).cpu().numpy(),
            "sums_n4": fvu(x_bpd, x_hat_bpd).sums_n4,
            "shuffled_n4": fvu(x_bpd, dealt_bpd).sums_n4,
        }.items():
            self.found[name].append(value)
        if self.grid is not None:
            maps_bshw = z_bps.float().cpu().transpose(1, 2).unflatten(2, self.grid)
            self.patches.append(morans_i(maps_bshw))

    def features(self) -> ArmFeatures:
        whole: dict[str, Any] = {name: np.concatenate(rows) for name, rows in self.found.items()}
        patches = None
        if self.patches:
            patches = PatchMorans(*(torch.cat(rows) for rows in zip(*self.patches, strict=True)))
        return ArmFeatures(**whole, patches=patches)


@torch.no_grad()
def patch_pass(
    arms: Sequence[Contender], source: ImageSource, items: Sequence[ImageItem], run: PassSettings,
    *, spatial: bool, seed: int, description: str,
) -> tuple[ImageFeatures, list[ImageItem]]:  # fmt: skip
    """Features of the images that could be read, and which these are.

    Patches beyond the norm limit of the dictionary in question are left out: it was not trained on
    them, and every dictionary of the table has its limit.

    Args:
        spatial: whether Moran's I is taken.
        seed: of the null of the unexplained variance.

    Raises:
        UserError: none could be read.
    """
    device = torch.device(run.device)
    first = arms[0].sae
    backbone = arms[0].backbone.to(device)
    assert first.cfg.layer is not None
    layer, last = first.cfg.layer, backbone.n_blocks - 1
    positions = backbone.token_indices("patch").to(device)
    parts = [
        _Parts(
            one.sae.to(device),
            backbone.grid if spatial else None,
            torch.Generator().manual_seed(seed),
        )
        for one in arms
    ]
    read: list[ImageItem] = []
    tokens, totals, embedding = [], [], []
    for batch in image_batches(
        source, items, backbone.transform, batch_size=run.batch_size,
        num_workers=run.num_workers, description=description,
    ):  # fmt: skip
        acts = backbone.tap(batch.images.to(device), [layer, last])
        x_bpd = acts[layer][:, positions].float()
        keep_bp = first.is_normal(x_bpd)
        for one in parts:
            one.add(x_bpd, keep_bp)
        read += batch.items
        tokens.append(keep_bp.double().sum(1).cpu().numpy())
        totals.append((x_bpd.double() * keep_bp[..., None]).sum(1).cpu().numpy())
        embedding.append(acts[last][:, positions].float().mean(1).cpu().numpy())
    if not read:
        raise UserError(f"no image of {source.name!r} could be read")
    features = ImageFeatures(
        whole_labels(read), np.concatenate(tokens), len(positions), np.concatenate(totals),
        {one.name: part.features() for one, part in zip(arms, parts, strict=True)},
        np.concatenate(embedding),
    )  # fmt: skip
    return features, read


@torch.no_grad()
def embedding_by(
    judge: Backbone, source: ImageSource, items: Sequence[ImageItem], run: PassSettings
) -> Float[np.ndarray, "n e"]:
    """Mean patch of another backbone's last block, of images that can be read."""
    device = torch.device(run.device)
    judge = judge.to(device)
    last, positions = judge.n_blocks - 1, judge.token_indices("patch").to(device)
    rows = [
        judge.tap(batch.images.to(device), [last])[last][:, positions].float().mean(1).cpu().numpy()
        for batch in image_batches(
            source, items, judge.transform, batch_size=run.batch_size,
            num_workers=run.num_workers, description="embedding images",
        )
    ]  # fmt: skip
    return np.concatenate(rows)


def whole_labels(items: Sequence[ImageItem]) -> np.ndarray | None:
    """Classes of the images; None where one has none."""
    labels = [-1 if item.label is None else item.label for item in items]
    return np.array(labels) if labels and min(labels) >= 0 else None
