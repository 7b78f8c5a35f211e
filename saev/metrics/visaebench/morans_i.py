"""M1, spatial coherence: Moran's I of a latent's codes over the patch grid.

Suffixes: n images, s latents, h w the grid, m pairs of image and latent.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

SMALLEST_SPREAD = 1e-10
"""Of Σ(x − x̄)²: below it a map counts as constant."""


class PatchMorans(NamedTuple):
    """One value per image and latent; nan where the pair does not count."""

    value_ns: Float[Tensor, "n s"]
    """About 1 for two halves, 0 for a chessboard, whose diagonal neighbours agree, −½ for stripes."""
    deviation_ns: Float[Tensor, "n s"]
    """Standard deviation of the value over all ways to deal the same codes out to the patches."""
    counted_ns: Bool[Tensor, "n s"]


def morans_i(
    maps_nshw: Float[Tensor, "n s h w"], *, min_active: int = 5, max_active_share: float = 0.9
) -> PatchMorans:
    """I = (N / Σw) · Σ_ij w_ij (x_i − x̄)(x_j − x̄) / Σ_i (x_i − x̄)², w = 1 for the 8 neighbours.

    A pair of image and latent counts with codes other than 0 on ``min_active`` patches or more and
    on at most ⌊``max_active_share`` · N⌋, and where the map varies. Range about −½ to 1, as the
    eigenvalues of w have it.

    Null value: −1/(N − 1), the exact mean under shuffled patches, not 0; ``deviation_ns`` is exact
    too. Source: ViSAEBench 0.1.0, M1; Moran 1950; moments under randomisation of Cliff & Ord 1981.

    Raises:
        ValueError: fewer than four patches.
    """
    h, w = maps_nshw.shape[-2:]
    if h * w < 4:
        raise ValueError(f"A grid of {h} × {w} patches has no spread of I: four at least.")
    active_ns = (maps_nshw != 0).sum((-2, -1), dtype=torch.int32)  # twice as fast as int64
    counted_ns = (active_ns >= min_active) & (active_ns <= int(max_active_share * h * w))
    maps_mhw = maps_nshw[counted_ns]
    centred = maps_mhw - maps_mhw.mean((-2, -1), keepdim=True)
    squares_m = centred.square().sum((-2, -1))
    varies_m = squares_m > SMALLEST_SPREAD
    known_m = squares_m.clamp_min(SMALLEST_SPREAD)
    degree_hw = _degrees(h, w)
    values_m = h * w / degree_hw.sum() * _neighbour_products(centred) / known_m
    kurtosis_m = h * w * centred.pow(4).sum((-2, -1)) / known_m.square()
    value_ns = torch.full(counted_ns.shape, torch.nan, dtype=values_m.dtype)
    deviation_ns = value_ns.clone()
    value_ns[counted_ns] = torch.where(varies_m, values_m, torch.nan)
    spread_m = _permutation_deviation(kurtosis_m, degree_hw)
    deviation_ns[counted_ns] = torch.where(varies_m, spread_m, torch.nan)
    return PatchMorans(value_ns, deviation_ns, ~value_ns.isnan())


def shuffled_patches(
    maps_nshw: Float[Tensor, "n s h w"], generator: torch.Generator
) -> Float[Tensor, "n s h w"]:
    """The null of M1: the patches of each image in random order, the same for all its latents."""
    flat = maps_nshw.flatten(2)
    order_np = torch.rand(len(flat), flat.shape[2], generator=generator).argsort(1)
    order_np = order_np.to(flat.device)
    return flat.gather(2, order_np[:, None].expand_as(flat)).unflatten(2, maps_nshw.shape[2:])


def _neighbour_products(x_mhw: Float[Tensor, "m h w"]) -> Float[Tensor, " m"]:
    """Σ_ij w_ij x_i x_j: each of four directions holds every pair of neighbours once."""
    ways = (
        x_mhw[:, :, :-1] * x_mhw[:, :, 1:],
        x_mhw[:, :-1] * x_mhw[:, 1:],
        x_mhw[:, :-1, :-1] * x_mhw[:, 1:, 1:],
        x_mhw[:, :-1, 1:] * x_mhw[:, 1:, :-1],
    )
    return 2 * torch.stack([way.sum((-2, -1)) for way in ways]).sum(0)


def _degrees(h: int, w: int) -> Float[Tensor, "h w"]:
    """Neighbours of each patch: 8, at the rim 5, in the corners 3."""
    rows = torch.full((h,), 3.0)
    rows[0] -= 1
    rows[-1] -= 1
    columns = torch.full((w,), 3.0)
    columns[0] -= 1
    columns[-1] -= 1
    return torch.outer(rows, columns) - 1


def _permutation_deviation(
    kurtosis_m: Float[Tensor, " m"], degree_hw: Float[Tensor, "h w"]
) -> Float[Tensor, " m"]:
    """Cliff & Ord 1981, with S₁ = 2·S₀ and S₂ = 4·Σ degree² for weights of 0 and 1."""
    n, degree = degree_hw.numel(), degree_hw.double()
    s0 = float(degree.sum())
    s1, s2 = 2 * s0, 4 * float(degree.square().sum())
    plain = n * ((n**2 - 3 * n + 3) * s1 - n * s2 + 3 * s0**2)
    peaked = (n**2 - n) * s1 - 2 * n * s2 + 6 * s0**2
    second_m = (plain - kurtosis_m.double() * peaked) / ((n - 1) * (n - 2) * (n - 3) * s0**2)
    return (second_m - 1 / (n - 1) ** 2).clamp_min(0).sqrt().to(kurtosis_m)
