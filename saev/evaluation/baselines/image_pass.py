"""Image pass: one for all dictionaries of one model, image by image.

Suffixes: b images, p chosen tokens, d width, s latents.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy import sparse
from torch import Tensor

from datamodules.images import ImageBatch, ImageItem, ImageSource, image_batches
from saev.backbones import Backbone
from saev.editing.tokens import on_chosen_tokens
from saev.evaluation.baselines.methods import Contender
from saev.evaluation.baselines.sums import ImageSums
from saev.evaluation.fidelity import predictions_under
from saev.evaluation.held_out import MAX_CODES
from saev.heads.own import make_head
from saev.metrics.prediction_fidelity import kl_per_image
from saev.sae import SparseAutoencoder


class _Collector:
    """Fills the sums of one dictionary."""

    def __init__(self, sae: SparseAutoencoder, n_images: int, fidelity: bool) -> None:
        self.sae = sae
        self.columns = {
            name: np.zeros(n_images)
            for name in ("n", "squares", "errors", "ratios", "active", "kl", "kl_mean", "agrees")
        }
        self.total_bd = np.zeros((n_images, sae.cfg.d_model))
        self.n_images, self.fidelity = n_images, fidelity
        self.rows: list[tuple[np.ndarray, sparse.csr_matrix, sparse.csr_matrix]] = []

    def add(self, x_bpd: Float[Tensor, "b p d"], places: np.ndarray) -> Float[Tensor, "b p d"]:
        """Adds the chosen tokens of the images at these places; returns their reconstruction."""
        step = max(1, MAX_CODES // (x_bpd.shape[1] * self.sae.cfg.d_sae))
        return torch.cat([
            self._add(x_bpd[first : first + step], places[first : first + step])
            for first in range(0, len(x_bpd), step)
        ])  # fmt: skip

    def _add(self, x_bpd: Float[Tensor, "b p d"], places: np.ndarray) -> Float[Tensor, "b p d"]:
        z_bps = self.sae.encode(x_bpd)
        x_hat_bpd = self.sae.decode(z_bps, x_bpd)
        keep_bp = self.sae.is_normal(x_bpd)
        z_bps = z_bps * keep_bp[..., None]
        error_bp = (x_bpd.double() - x_hat_bpd.double()).square().sum(-1) * keep_bp
        power_bp = x_bpd.double().square().sum(-1)
        shifted = (x_bpd.double() - self.sae.mean.double()) * keep_bp[..., None]
        fires_bps = z_bps > 0
        found = {
            "n": keep_bp.sum(1), "squares": shifted.square().sum((1, 2)), "errors": error_bp.sum(1),
            "ratios": torch.where(power_bp > 0, error_bp / power_bp, 0.0).sum(1),
            "active": fires_bps.sum((1, 2)),
        }  # fmt: skip
        for name, value in found.items():
            self.columns[name][places] = value.double().cpu().numpy()
        self.total_bd[places] = shifted.sum(1).cpu().numpy()
        fired, strongest = fires_bps.sum(1).float().cpu().numpy(), z_bps.amax(1).cpu().numpy()
        self.rows.append((places, sparse.csr_matrix(fired), sparse.csr_matrix(strongest)))
        return x_hat_bpd

    def sums(self) -> ImageSums:
        places = np.concatenate([row[0] for row in self.rows])
        fired, strongest = (
            _in_place(sparse.vstack([row[n] for row in self.rows]).tocsr(), places, self.n_images)
            for n in (1, 2)
        )
        c, given = self.columns, self.fidelity
        return ImageSums(
            n_b=c["n"], total_bd=self.total_bd, squares_b=c["squares"], errors_b=c["errors"],
            ratios_b=c["ratios"], active_b=c["active"], fired_bs=fired, strongest_bs=strongest,
            kl_b=c["kl"] if given else None, kl_mean_b=c["kl_mean"] if given else None,
            agrees_b=c["agrees"] if given else None,
        )  # fmt: skip


def _in_place(rows: Any, places: np.ndarray, n_images: int) -> sparse.csr_matrix:
    """Rows at their images' places; images without a row are empty."""
    order = sparse.csr_matrix(
        (np.ones(len(places), np.float32), (places, np.arange(len(places)))),
        shape=(n_images, len(places)),
    )
    return sparse.csr_matrix(order @ rows)


class ImagePass:
    """Sums of every dictionary of one model, and the model's embedding of every image."""

    def __init__(
        self, group: Sequence[Contender], source: ImageSource, items: Sequence[ImageItem], *,
        fidelity: bool, batch_size: int, num_workers: int, device: torch.device | str,
    ) -> None:  # fmt: skip
        self.device = torch.device(device)
        self.group, self.source, self.items = group, source, list(items)
        self.backbone: Backbone = group[0].backbone.to(self.device)
        cfg = group[0].sae.cfg
        assert cfg.layer is not None and cfg.tokens is not None
        self.layer = cfg.layer
        self.positions = self.backbone.token_indices(cfg.tokens["which"]).to(self.device)
        self.batch_size, self.num_workers = batch_size, num_workers
        self.collectors = [
            _Collector(one.sae.to(self.device), len(self.items), fidelity) for one in group
        ]
        self.head = None
        if fidelity:
            self.head = make_head(self.backbone, source.class_names).to(self.device)
        self.embedding_be: Float[np.ndarray, "b e"] | None = None
        self.seen_b = np.zeros(len(self.items), bool)

    def run(self, description: str) -> list[ImageSums]:
        """Goes through the images; the sums in the order of the group."""
        if self.head is not None and self.head.needs_fit:
            self._fit_head(description)
        for batch in self._batches(description):
            self._update(batch)
        return [collector.sums() for collector in self.collectors]

    def _batches(self, description: str) -> Iterator[ImageBatch]:
        return image_batches(
            self.source, self.items, self.backbone.transform,
            batch_size=self.batch_size, num_workers=self.num_workers, description=description,
        )  # fmt: skip

    @torch.no_grad()
    def _fit_head(self, description: str) -> None:
        assert self.head is not None
        pooled, labels = [], []
        for batch in self._batches(f"{description}: head"):
            pooled.append(self.backbone(batch.images.to(self.device)).pooled)
            labels += [-1 if item.label is None else item.label for item in batch.items]
        self.head.fit(torch.cat(pooled), torch.tensor(labels, device=self.device))

    @torch.no_grad()
    def _update(self, batch: ImageBatch) -> None:
        places = np.array(batch.positions)
        self.seen_b[places] = True
        acts_btd = self.backbone.tap(batch.images.to(self.device), [self.layer])[self.layer]
        x_bpd = acts_btd[:, self.positions].float()
        x_hats = [collector.add(x_bpd, places) for collector in self.collectors]
        clean = self.backbone.resume(acts_btd, self.layer)
        pooled = clean.pooled.float().cpu().numpy()
        if self.embedding_be is None:
            self.embedding_be = np.zeros((len(self.items), pooled.shape[1]), np.float32)
        self.embedding_be[places] = pooled
        if self.head is not None:
            self._fidelity(acts_btd, x_hats, self.head(clean).float(), places)

    def _fidelity(
        self, acts_btd: Tensor, x_hats: list[Tensor], clean_bc: Tensor, places: np.ndarray
    ) -> None:
        assert self.head is not None
        first = self.collectors[0].sae
        arms = {
            "mean": on_chosen_tokens(first, self.positions, lambda x: first.mean.to(x).expand_as(x))
        }
        for number, (collector, x_hat_bpd) in enumerate(zip(self.collectors, x_hats, strict=True)):
            arms[str(number)] = on_chosen_tokens(
                collector.sae, self.positions, lambda _, y_bpd=x_hat_bpd: y_bpd.flatten(0, 1)
            )
        logits = predictions_under(arms, acts_btd, self.backbone, self.layer, self.head)
        kl_mean = kl_per_image(next(logits)[1], clean_bc).cpu().numpy()
        for collector, (_, logits_bc) in zip(self.collectors, logits, strict=True):
            collector.columns["kl"][places] = kl_per_image(logits_bc, clean_bc).cpu().numpy()
            collector.columns["kl_mean"][places] = kl_mean
            agrees = logits_bc.argmax(-1) == clean_bc.argmax(-1)
            collector.columns["agrees"][places] = agrees.double().cpu().numpy()
