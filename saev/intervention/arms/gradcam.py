"""Grad-CAM baseline: mask the most salient patches of the input.

Suffixes: b images, p patches, d width.
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from saev.backbones import Backbone
from saev.intervention.arms.arms import ArmPlan
from saev.intervention.arms.runner import EncodedBatch, Job, TestSet
from saev.intervention.choose.proposals import Proposal
from saev.intervention.readout import Readout
from saev.intervention.setting import Setting

MASKED_SHARE = 0.2
"""Of the patches, those with the largest map: about what an object fills in a centred photograph."""


def grad_cam(
    backbone: Backbone, layer: int, readout: Readout, acts: Float[Tensor, "b t d"], column: int
) -> Float[Tensor, "b p"]:
    """ReLU(Σ_d w_d · x_pd) with w the mean over patches of ∂ logit / ∂ x (Selvaraju et al. 2017),
    the logit summed over the units."""
    patches = backbone.token_indices("patch").to(acts.device)
    with torch.enable_grad():
        leaf = acts.detach().clone().requires_grad_(True)
        readout.logits(backbone.resume(leaf, layer))[..., column].sum().backward()
    assert leaf.grad is not None
    weight_b1d = leaf.grad[:, patches].mean(1, keepdim=True)
    return (leaf.detach()[:, patches] * weight_b1d).sum(-1).relu()


def strongest_patches(
    cam: Float[Tensor, "b p"], share: float = MASKED_SHARE
) -> Bool[Tensor, "b p"]:
    """The given share of patches with the largest map."""
    n = max(1, round(share * cam.shape[1]))
    return torch.zeros_like(cam, dtype=torch.bool).scatter(1, cam.topk(n, 1).indices, True)


def mask_pixels(
    images: Float[Tensor, "b 3 h w"], patches: Bool[Tensor, "b p"], grid: tuple[int, int]
) -> Float[Tensor, "b 3 h w"]:
    """Images with the pixels of some patches at the mean colour (0 after normalisation)."""
    mask_b1hw = patches.view(-1, 1, *grid).float()
    mask_b1hw = F.interpolate(mask_b1hw, size=images.shape[-2:], mode="nearest")
    return images * (1 - mask_b1hw)


def add_gradcam(plan: ArmPlan, setting: Setting, test: TestSet) -> None:
    """Adds the arm ``gradcam_pixels``: the masked picture goes through the whole model anew."""
    backbone, readout, layer = setting.backbone, setting.readout, setting.layer

    def job(p: Proposal) -> Job:
        def steer(batch: EncodedBatch) -> Tensor:
            acts = batch.encoded["sae"].acts
            chosen = strongest_patches(grad_cam(backbone, layer, readout, acts, p.column))
            items = [test.items[i] for i in np.asarray(batch.images).tolist()]
            pictures = torch.stack(
                [backbone.transform(setting.source.load(item)) for item in items]
            )
            masked = mask_pixels(pictures.to(acts.device), chosen, backbone.grid)
            return setting.tap(masked)

        return Job(steer, frozenset([p.concept]))

    for p in plan.proposals:
        key = ("gradcam", p.concept)
        plan.jobs[key] = job(p)
        plan.use(p, "gradcam_pixels", 0, plan.n, plan.file.scale, key, True)
