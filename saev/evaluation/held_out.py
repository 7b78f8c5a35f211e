"""Held-out evaluation in one pass: reconstruction, sparsity, downstream fidelity, exemplars.

Suffixes: b images, t tokens, p chosen tokens, d width, s latents.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from datamodules.images import ImageBatch, ImageItem, ImageSource, image_batches
from saev.backbones import Backbone
from saev.codes.exemplars import Exemplars
from saev.editing import control_arms
from saev.errors import UserError
from saev.evaluation.control import untrained_control
from saev.evaluation.fidelity import Fidelity
from saev.heads.own import make_head
from saev.loading import check_belongs
from saev.metrics import ReconstructionMetrics
from saev.sae import SparseAutoencoder

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

MAX_CODES = 2**25
"""Dense codes held at once, so that 24,576 latents on 196 patches stay near 128 MB."""


@dataclass
class Evaluation:
    """What one pass over held-out images found."""

    metrics: dict[str, float]
    """Flat: ``val/…`` (normal tokens), ``val_all/…`` (all tokens), ``untrained/…``, ``fidelity/…``."""
    frequency: Float[Tensor, " s"]
    """Share of normal tokens on which each latent fires."""
    n_tokens: int
    """Normal tokens scored."""
    exemplars: Exemplars
    items: list[ImageItem]
    """The images evaluated; exemplars index into this list."""
    head: str | None
    """The head that fidelity was measured with, None when it was not."""
    figures: "dict[str, Figure]" = field(default_factory=dict)
    """Firing frequencies, and what latents respond to, where they were asked for."""

    def __repr__(self) -> str:
        shown = ("val/explained_variance", "val/l0", "val/dead_fraction", "fidelity/kl_recovered")
        values = [f"{name}={self.metrics[name]:.4g}" for name in shown if name in self.metrics]
        return f"Evaluation({len(self.items):,} images: {', '.join(values)})"

    def to_frame(self) -> "pd.DataFrame":
        """The metrics as a table: a row a metric, a column for what it was measured of."""
        import pandas as pd

        rows = [
            {"metric": name, "of": of or stage, "stage": stage, "value": value}
            for key, value in self.metrics.items()
            for stage, name, of in [(*key.split("/"), "")[:3]]
        ]
        table = pd.DataFrame(rows).pivot_table("value", "metric", "of", sort=False)
        return table.rename_axis(columns=None)


def evaluate_images(
    sae: SparseAutoencoder,
    backbone: Backbone,
    source: ImageSource,
    *,
    fidelity: bool = True,
    n_images: int | None = None,
    batch_size: int = 32,
    num_workers: int = 2,
    device: str | torch.device = "cpu",
    seed: int = 0,
    n_top: int = 8,
) -> Evaluation:
    """Scores an SAE on the held-out images of a source.

    Args:
        sae: the dictionary; its config says which layer and tokens it belongs to.
        backbone: the model it was trained on.
        source: the images; everything that is not of the training split is used.
        fidelity: also run the rest of the model under the control arms.
        n_images: at most so many images, the first of the source's order.
        batch_size: images per forward pass.
        seed: of the untrained dictionary that stands beside the trained one.
        n_top: exemplars kept per latent.

    Raises:
        UserError: no held-out images, no token of normal norm among them, or the SAE belongs to
            another backbone or width.
    """
    check_belongs(sae, backbone)
    items = source.split("heldout")[:n_images]
    if not items:
        raise UserError(
            f"the image source {source.name!r} has no held-out images to evaluate on; "
            "give it a val or test folder, or set images.val_fraction above 0"
        )
    run = _Pass(sae, backbone, source, fidelity, device, seed, n_top)
    batches = partial(
        image_batches,
        source,
        items,
        backbone.transform,
        batch_size=batch_size,
        num_workers=num_workers,
    )
    if run.fidelity is not None and run.fidelity.head.needs_fit:
        run.fit_head(batches(description="fitting the head"))
    for batch in batches(description="evaluating"):
        run.update(batch)
    if int(run.normal.firing.n) == 0:
        raise UserError(
            f"none of the tokens of {len(items)} held-out images has a norm of at most "
            f"{sae.cfg.max_norm}, the limit this SAE was trained with; it belongs to other activations"
        )
    return Evaluation(
        metrics=run.compute(),
        frequency=run.normal.firing.frequencies().float().cpu(),
        n_tokens=int(run.normal.firing.n),
        exemplars=run.exemplars,
        items=items,
        head=run.fidelity.head.name if run.fidelity is not None else None,
    )


class _Pass:
    """The state of one pass: metrics for normal and all tokens, the control arms, the exemplars."""

    def __init__(self, sae, backbone, source, fidelity, device, seed, n_top) -> None:
        self.device = torch.device(device)
        self.backbone = backbone.to(self.device)
        self.sae = sae.to(self.device).eval()
        self.layer = sae.cfg.layer
        self.positions = backbone.token_indices(sae.cfg.tokens["which"]).to(self.device)
        self.untrained = untrained_control(self.sae, self.backbone, source, seed)
        self.normal, self.outliers, self.control = (
            ReconstructionMetrics(sae.cfg.d_model, sae.cfg.d_sae, sae.mean).to(self.device)
            for _ in range(3)
        )
        self.exemplars = Exemplars(sae.cfg.d_sae, n_top)
        self.fidelity: Fidelity | None = None
        if fidelity:
            head = make_head(backbone, source.class_names)
            arms = control_arms(self.sae, self.untrained, self.sae.mean, self.positions)
            self.fidelity = Fidelity(backbone, self.layer, head, arms)

    @torch.no_grad()
    def fit_head(self, batches: Iterator[ImageBatch]) -> None:
        """Gives a head without its own classes the clean embeddings of the images."""
        assert self.fidelity is not None
        pooled, labels = [], []
        for batch in batches:
            pooled.append(self.backbone(batch.images.to(self.device)).pooled)
            labels.append(self._labels(batch))
        self.fidelity.head.fit(torch.cat(pooled), torch.cat(labels))

    @torch.no_grad()
    def update(self, batch: ImageBatch) -> None:
        images = batch.images.to(self.device)
        acts_btd = self.backbone.tap(images, [self.layer])[self.layer]
        step = max(1, MAX_CODES // (len(self.positions) * self.sae.cfg.d_sae))
        indices = torch.tensor(batch.positions)
        for first in range(0, len(images), step):
            chosen = acts_btd[first : first + step, self.positions].float()
            self._score(chosen, indices[first : first + step])
        if self.fidelity is not None:
            clean = self.backbone.resume(acts_btd, self.layer)
            targets_b = self.fidelity.head.columns_of(self._labels(batch))
            self.fidelity.update(acts_btd, clean, targets_b)

    def _score(self, x_bpd: Float[Tensor, "b p d"], images_b: Int[Tensor, " b"]) -> None:
        z_bps = self.sae.encode(x_bpd)
        normal_bp = self.sae.is_normal(x_bpd)
        x, z, keep = x_bpd.flatten(0, 1), z_bps.flatten(0, 1), normal_bp.flatten()
        x_hat = self.sae.decode(z, x)
        for metrics, rows in ((self.normal, keep), (self.outliers, ~keep)):
            metrics.update(x[rows], x_hat[rows], z[rows])
        z_untrained = self.untrained.encode(x[keep])
        self.control.update(x[keep], self.untrained.decode(z_untrained, x[keep]), z_untrained)
        self.exemplars.update(z_bps * normal_bp[..., None], images_b)

    def _labels(self, batch: ImageBatch) -> Int[Tensor, " b"]:
        labels = [-1 if item.label is None else item.label for item in batch.items]
        return torch.tensor(labels, device=self.device)

    def compute(self) -> dict[str, float]:
        found = {"val": self.normal.compute(), "untrained": self.control.compute()}
        every = deepcopy(self.normal)
        every.merge(self.outliers)
        found["val_all"] = every.compute()
        flat = {
            f"{of}/{name}": float(value)
            for of in ("val", "val_all", "untrained")
            for name, value in found[of].items()
        }
        if self.fidelity is not None:
            flat |= self.fidelity.compute()
        return flat
