"""Effects of atoms on classes, to first order and at equal length: what an edit along each would do.

Suffixes: b images, t tokens, d width, s latents, u units, c columns.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from datamodules.images import ImageItem
from saev.intervention.choose.selectors import Scores
from saev.intervention.setting import Setting


@torch.no_grad()
def margin_gradients(setting: Setting, items: list[ImageItem]) -> Float[Tensor, "c d"]:
    """How much each class's margin rises when all edited tokens move by one unit along each axis.

    The margin of a unit is the logit of the class minus the best other of its group. With direction
    "decrease" it is the mean over units with that label that are predicted right; with "increase" over
    units of other labels. 0 for classes without such units and for backgrounds.
    """
    groups = setting.readout.groups
    columns = [c for c in range(len(setting.readout.concepts)) if c not in groups.backgrounds]
    total, count = None, torch.zeros(len(setting.readout.concepts))
    for batch in setting.batches(items, "effects of atoms"):
        acts = setting.tap(batch.images)
        labels = torch.stack([setting.readout.labels(item).label for item in batch.items])
        labels = labels.to(acts.device)
        if total is None:
            total = torch.zeros(len(count), acts.shape[-1])
        with torch.enable_grad():
            leaf = acts.detach().clone().requires_grad_(True)
            logits = setting.readout.of_acts(setting.backbone, leaf, setting.layer)
            sums, found = [], []
            for column in columns:
                margin, wanted = _margin(setting, logits, labels, column)
                sums.append((margin * wanted).sum(1))
                found.append(wanted.sum(1))
            sum_bc, n_bc = torch.stack(sums, 1), torch.stack(found, 1).cpu()
            for turn in _turns(n_bc > 0):
                images = (turn >= 0).nonzero()[:, 0]
                own = turn[images]
                picked = sum_bc[images.to(acts.device), own.to(acts.device)]
                [slope] = torch.autograd.grad(picked.sum(), leaf, retain_graph=True)
                shifted = slope[:, setting.edited_tokens.positions].sum(1).float().cpu()
                total.index_add_(0, torch.tensor(columns)[own], shifted[images])
        count[columns] += n_bc.sum(0)
    assert total is not None
    return total / count.clamp(min=1).unsqueeze(-1)


def _turns(present: Bool[Tensor, "b c"]) -> Iterator[Int[Tensor, " b"]]:
    """The classes of every image one after the other, −1 where it has no more: as images do not see
    each other, one backward pass serves a class of each."""
    order = present.int().argsort(dim=1, descending=True, stable=True)
    n_present = present.sum(1)
    for k in range(int(n_present.max())):
        yield torch.where(k < n_present, order[:, k], -1)


def _margin(
    setting: Setting, logits: Float[Tensor, "b u c"], labels: Tensor, column: int
) -> tuple[Float[Tensor, "b u"], Tensor]:
    """Of every unit for one class, and which of them count."""
    groups = setting.readout.groups
    group = groups.of(column)
    first, last = groups.spans[group]
    others = [c for c in range(first, last) if c != column]
    margin = logits[..., column] - logits[..., others].amax(-1)
    own = labels[..., group]
    if setting.file.direction == "increase":
        return margin, (own >= 0) & (own != column)
    return margin, (own == column) & (margin > 0)


def atom_effects(setting: Setting, gradients: Float[Tensor, "c d"]) -> dict[str, Scores]:
    """By dictionary: the effect of each atom at length 1, positive where the edit does what the file
    expects of it."""
    wanted = 1.0 if setting.file.direction == "increase" else -1.0
    sign = wanted * setting.file.pushes
    return {
        which: sign * (sae.W_dec.detach().double().cpu() @ gradients.double().T).numpy()
        for which, sae in setting.saes.items()
    }
