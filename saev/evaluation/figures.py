"""Figures of every evaluated SAE: firing frequencies, exemplars of some latents."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from datamodules.images import ImageSource
from saev.backbones import Backbone
from saev.backbones.transform import to_picture
from saev.evaluation.held_out import Evaluation
from saev.pages.figures import LatentRow, Tile, exemplar_figure, firing_histogram
from saev.sae import SparseAutoencoder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

N_LATENTS = 8
N_TILES = 6
MIN_IMAGES = 3
"""A latent is shown when it fires on at least this many held-out images."""


def draw_figures(
    evaluation: Evaluation,
    sae: SparseAutoencoder,
    backbone: Backbone,
    source: ImageSource,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> dict[str, "Figure"]:
    """``firing_frequency``, ``latents_random`` and ``latents_strongest``.

    The random figure shows alive latents drawn with ``seed``, not the best ones: it tells what a
    latent picked blindly looks like. The other ranks latents by their code on their third best image.
    Tokens of the patch grid are needed for the heat-maps; without them only the first is drawn.
    """
    figures = {"firing_frequency": firing_histogram(
        evaluation.frequency.numpy(), evaluation.n_tokens
    )}  # fmt: skip
    alive = evaluation.exemplars.alive(MIN_IMAGES).cpu()
    if (sae.cfg.tokens or {}).get("which") == "patch" and len(alive):
        generator = torch.Generator().manual_seed(seed)
        drawn = alive[torch.randperm(len(alive), generator=generator)[:N_LATENTS]].tolist()
        strongest = evaluation.exemplars.strongest(min(N_LATENTS, len(alive)), MIN_IMAGES)
        painter = _Painter(evaluation, sae, backbone, source, device)
        note = f"{backbone.name}, block {sae.cfg.layer}; brightness: the code at each patch"
        figures["latents_random"] = exemplar_figure(
            f"{len(drawn)} of {len(alive):,} alive latents, drawn at random",
            painter.rows(sorted(drawn)), note,
        )  # fmt: skip
        figures["latents_strongest"] = exemplar_figure(
            "The strongest latents", painter.rows(strongest), note
        )
    return figures


def save_figures(figures: Mapping[str, "Figure"], out_dir: Path) -> list[Path]:
    """Writes each as ``<name>.png``."""
    out_dir.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures.items():
        path = out_dir / f"{name}.png"
        figure.savefig(path, dpi=110)
        paths.append(path)
    return paths


class _Painter:
    """Recomputes the codes of single images, as the model saw them, for the heat-maps."""

    def __init__(self, evaluation, sae, backbone, source, device) -> None:
        self.evaluation, self.sae, self.backbone, self.source = evaluation, sae, backbone, source
        self.device = torch.device(device)
        self.cache: dict[int, tuple[np.ndarray, Tensor]] = {}

    def rows(self, latents: list[int]) -> list[LatentRow]:
        rows = []
        for latent in latents:
            exemplars = self.evaluation.exemplars.of(latent)[:N_TILES]
            share = float(self.evaluation.frequency[latent])
            tiles = [self._tile(exemplar.image, latent) for exemplar in exemplars]
            rows.append(LatentRow(latent, f"fires on {100 * share:.2g} %", tiles))
        return rows

    def _tile(self, image: int, latent: int) -> Tile:
        if image not in self.cache:
            self.cache[image] = self._encode(image)
        picture, z_ps = self.cache[image]
        return Tile(picture, z_ps[:, latent].view(self.backbone.grid).float().numpy())

    @torch.no_grad()
    def _encode(self, image: int) -> tuple[np.ndarray, Tensor]:
        pixels = self.backbone.transform(self.source.load(self.evaluation.items[image]))
        layer = self.sae.cfg.layer
        acts = self.backbone.tap(pixels[None].to(self.device), [layer])[layer].float()
        x_pd = acts[0, self.backbone.token_indices("patch").to(self.device)]
        z_ps = self.sae.encode(x_pd) * self.sae.is_normal(x_pd)[:, None]
        return to_picture(pixels, self.backbone.mean, self.backbone.std), z_ps.cpu()
