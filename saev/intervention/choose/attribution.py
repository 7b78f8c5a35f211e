"""Attribution of each class to latents: gradient × activation at the tap.

Suffixes: b images, p chosen tokens, d width, s latents, u units, c columns.
"""

import numpy as np
import torch
from torch import Tensor

from datamodules.images import ImageItem
from saev.backbones import Backbone
from saev.editing.tokens import Tokens, encode
from saev.intervention.choose.selectors import Scores
from saev.intervention.readout import Readout
from saev.intervention.setting import Setting
from saev.sae import SparseAutoencoder


def attribute(setting: Setting, items: list[ImageItem]) -> Scores:
    """Σ z · (atom · ∂ log p_c / ∂x) over the patches of all images, p_c on the units labelled c.

    First order: what the class's log-probability would lose if the latent were removed.
    """
    backbone, readout, sae = setting.backbone, setting.readout, setting.sae
    tokens = Tokens.of(backbone, "patch").to(setting.device)
    scores_sc = np.zeros((sae.cfg.d_sae, len(readout.concepts)))
    for batch in setting.batches(items, "attribution"):
        with torch.no_grad():
            acts = setting.tap(batch.images)
        labels = torch.stack([readout.labels(item).label for item in batch.items])
        labels = labels.to(setting.device)
        for column in labels.unique().tolist():
            if column >= 0 and column not in readout.groups.backgrounds:
                gradient = _gradient(backbone, setting.layer, readout, acts, labels, column)
                scores_sc[:, column] += _contribution(sae, tokens, acts, gradient)
    return scores_sc


def _gradient(
    backbone: Backbone, layer: int, readout: Readout, acts: Tensor, labels: Tensor, column: int
) -> Tensor:
    group = readout.groups.of(column)
    first, last = readout.groups.spans[group]
    with torch.enable_grad():
        leaf = acts.detach().clone().requires_grad_(True)
        logits = readout.logits(backbone.resume(leaf, layer))[..., first:last]
        log_p_bu = logits.log_softmax(-1)[..., column - first]
        log_p_bu[labels[..., group] == column].sum().backward()
    assert leaf.grad is not None
    return leaf.grad


@torch.no_grad()
def _contribution(
    sae: SparseAutoencoder, tokens: Tokens, acts: Tensor, gradient: Tensor
) -> np.ndarray:
    encoded = encode(sae, tokens, acts)
    gradient_bpd = gradient[:, tokens.positions].to(sae.W_dec.dtype)
    slope_bps = gradient_bpd @ sae.W_dec.T / sae.scale
    if (units := sae.units_of(encoded.x)) is not None:
        slope_bps = slope_bps * units.length
    kept = encoded.z * slope_bps * encoded.normal.unsqueeze(-1)
    return kept.sum((0, 1)).double().cpu().numpy()
