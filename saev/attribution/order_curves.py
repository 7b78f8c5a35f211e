"""Curves of a latent's code as patches of the image are inserted into, or deleted from, a blurred one.

After RISE (Petsiuk et al. 2018, arXiv 1806.07421), with a latent's code in the place of a class.
Suffixes: b images, n points of a curve, r orders, g patches.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saev.attribution.latent_probe import LatentProbe
from saev.attribution.references import blurred


@dataclass(frozen=True)
class OrderCurves:
    """The code along some orders of the patches, as a multiple of the code on the whole image.

    The code is summed over the tokens that were attributed.
    """

    shares: Float[Tensor, " n"]
    """Of the patches that have been moved, from 0 to 1."""
    insertion: Float[Tensor, "r n"]
    """Patches go from the image into its blurred self, the first of the order first; ends at 1."""
    deletion: Float[Tensor, "r n"]
    """Patches of the image are blurred in the same order; begins at 1."""

    @property
    def insertion_areas(self) -> Float[Tensor, " r"]:
        """Under each curve, over shares from 0 to 1 (trapezoids): high where the first patches bring
        the code back."""
        return torch.trapezoid(self.insertion, self.shares)

    @property
    def deletion_areas(self) -> Float[Tensor, " r"]:
        """Low where the code goes with the first patches."""
        return torch.trapezoid(self.deletion, self.shares)


@dataclass(frozen=True)
class InsertionDeletion:
    """What an attribution's order of the patches does to the code, next to other orders."""

    attribution: OrderCurves
    """One order: the largest attribution first."""
    random: OrderCurves
    """Orders drawn at random."""
    heatmap: OrderCurves | None
    """One order: the largest code first. None where the dictionary reads no patches."""

    def better_than_random(self) -> tuple[bool, bool]:
        """Whether the area of insertion is above, and that of deletion below, the mean of the random
        orders."""
        return _better(self.attribution, self.random)

    def better_than_heatmap(self) -> tuple[bool, bool] | None:
        """The same against the order of the codes."""
        return None if self.heatmap is None else _better(self.attribution, self.heatmap)


def _better(one: OrderCurves, others: OrderCurves) -> tuple[bool, bool]:
    return (
        bool(one.insertion_areas.mean() > others.insertion_areas.mean()),
        bool(one.deletion_areas.mean() < others.deletion_areas.mean()),
    )


@dataclass(frozen=True)
class PatchMixer:
    """Measures a latent's code on mixtures of an image and its blurred self, a batch at a time."""

    probe: LatentProbe
    image: Float[Tensor, "3 h w"]
    batch_size: int

    def curves(self, orders: Int[Tensor, "r g"], n_steps: int) -> OrderCurves:
        """Insertion and deletion along orders of all patches, in ``n_steps`` steps of nearly equal
        numbers of patches."""
        kept, shares = _first_in_order(orders, n_steps)
        whole, nothing = self._ends(orders.shape[1])
        insertion = self._between(nothing, kept, whole) / whole
        deletion = self._between(whole, ~kept, nothing) / whole
        return OrderCurves(shares, insertion, deletion)

    def random_curves(self, n_orders: int, n_steps: int, seed: int) -> OrderCurves:
        """Along orders drawn at random. Inserting along an order is, read backwards, deleting along
        its reverse, which is as random: each mixture serves a curve of both kinds."""
        generator = torch.Generator().manual_seed(seed)
        n_patches = self.probe.backbone.grid[0] * self.probe.backbone.grid[1]
        orders = [torch.randperm(n_patches, generator=generator) for _ in range(n_orders)]
        kept, shares = _first_in_order(torch.stack(orders), n_steps)
        whole, nothing = self._ends(n_patches)
        insertion = self._between(nothing, kept, whole) / whole
        return OrderCurves(shares, insertion, insertion.flip(1))

    def totals(self, kept: Bool[Tensor, "b g"]) -> Float[Tensor, " b"]:
        """Summed codes where the marked patches are the image's and the others blurred."""
        image, grid = self.image, self.probe.backbone.grid
        behind = blurred(image, grid)
        found = []
        for part in kept.to(image.device).split(self.batch_size):
            mask = F.interpolate(part.view(-1, 1, *grid).to(image.dtype), image.shape[-2:])
            found.append(self.probe.codes(torch.lerp(behind, image, mask)).sum(1))
        return torch.cat(found).float().cpu()

    def _ends(self, n_patches: int) -> tuple[Tensor, Tensor]:
        """The code on the whole image, and on the blurred one."""
        whole, nothing = self.totals(torch.tensor([[True], [False]]).expand(2, n_patches))
        return whole, nothing

    def _between(self, first: Tensor, kept: Bool[Tensor, "r n g"], last: Tensor) -> Tensor:
        """Curves (r, n) with known ends."""
        r, n, _ = kept.shape
        inner = self.totals(kept.flatten(0, 1)).view(r, n) if n else torch.empty(r, 0)
        return torch.cat([first.expand(r, 1), inner, last.expand(r, 1)], 1)


def _first_in_order(orders: Tensor, n_steps: int) -> tuple[Tensor, Tensor]:
    """Which patches have been moved at the inner points of curves (r, n - 2, g), and shares of the
    patches (n,) at all points."""
    n_patches = orders.shape[1]
    edges = torch.linspace(0, n_patches, min(n_steps, n_patches) + 1).round()
    rank = orders.argsort(1)  # of each patch
    return rank[:, None] < edges[1:-1, None], edges / n_patches
