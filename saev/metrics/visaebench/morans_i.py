"""M1, spatial coherence: Moran's I of a latent's codes over the patch grid.

Suffixes: n images, s latents, k scored latents, h w the grid, m pairs of image and latent,
r bootstrap draws.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saev.metrics.visaebench.seeded import SEED, draw_latents

SMALLEST_SPREAD = 1e-10
"""Of Σ(x − x̄)²: below it a map counts as constant."""


class PatchMorans(NamedTuple):
    """One value per image and latent; nan where the pair does not count."""

    value_ns: Float[Tensor, "n s"]
    """−1 for a chessboard, about 1 for one patch of ground; the rim keeps it below 1."""
    deviation_ns: Float[Tensor, "n s"]
    """Standard deviation of the value over all ways to deal the same codes out to the patches."""
    counted_ns: Bool[Tensor, "n s"]


class MoransScore(NamedTuple):
    """Of a dictionary."""

    value: float
    """Mean over the scored latents; nan where there is none (the benchmark says 0)."""
    chance: float
    """Its exact mean when patches are shuffled within each image, −1/(patches − 1)."""
    per_latent_s: Float[np.ndarray, " s"]
    """Mean over a latent's images, nan where they are too few."""
    z_s: Float[np.ndarray, " s"]
    """(per latent − chance) / deviation of it under shuffled patches: about normal by chance."""
    not_localized: float
    """Share of the scored latents below ``threshold``."""
    scored_k: Int[np.ndarray, " k"]
    value_nk: Float[np.ndarray, "n k"]
    """Of the scored latents, 0 where a pair does not count."""
    counted_nk: Bool[np.ndarray, "n k"]

    def resampled(self, weight_rn: Float[np.ndarray, "r n"]) -> Float[np.ndarray, " r"]:
        """The value under weights of images; the choice of latents and of images per latent stays."""
        total_rk = weight_rn @ self.counted_nk.astype(float)
        sum_rk = weight_rn @ self.value_nk
        known_rk = total_rk > 0
        mean_rk = np.where(known_rk, sum_rk / np.where(known_rk, total_rk, 1), 0)
        number_r = known_rk.sum(1)
        return mean_rk.sum(1) / np.where(number_r > 0, number_r, np.nan)


def morans_i(
    maps_nshw: Float[Tensor, "n s h w"], *, min_active: int = 5, max_active_share: float = 0.9
) -> PatchMorans:
    """I = (N / Σw) · Σ_ij w_ij (x_i − x̄)(x_j − x̄) / Σ_i (x_i − x̄)², w = 1 for the 8 neighbours.

    A pair of image and latent counts with codes other than 0 on ``min_active`` patches or more and
    on at most ⌊``max_active_share`` · N⌋, and where the map varies. Range about [−1, 1].

    Null value: −1/(N − 1), the exact mean under shuffled patches, not 0; ``deviation_ns`` is exact
    too. Source: ViSAEBench 0.1.0, M1; Moran 1950; moments under randomisation of Cliff & Ord 1981.

    Raises:
        ValueError: fewer than four patches.
    """
    h, w = maps_nshw.shape[-2:]
    if h * w < 4:
        raise ValueError(f"A grid of {h} × {w} patches has no spread of I: four at least.")
    active_ns = (maps_nshw != 0).sum((-2, -1))
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


def morans_score(
    pairs: PatchMorans,
    n_patches: int,
    *,
    min_images: int = 50,
    max_images: int = 200,
    max_latents: int = 500,
    threshold: float = 0.1,
    block: int = 64,
    shard: int | None = 5000,
    seed: int = SEED,
) -> MoransScore:
    """Mean over images, then over latents, as the benchmark takes them.

    A latent takes images in their order, whole blocks of ``block``, until it has ``max_images`` or
    more, so at most ``max_images`` + ``block`` − 1; blocks begin anew at each ``shard`` (None: one
    shard). The benchmark's images lie sorted by class, so a frequent latent is judged by the first
    classes alone. Latents with fewer than ``min_images`` are left out, and of the rest at most
    ``max_latents`` drawn ones are scored.
    """
    counted_ns = pairs.counted_ns.numpy(force=True)
    counted_ns = counted_ns & _within_cap(counted_ns, max_images, block, shard)
    value_ns = np.where(counted_ns, pairs.value_ns.double().numpy(force=True), 0)
    n_images_s = counted_ns.sum(0)
    enough_s = n_images_s >= min_images
    divisor_s = np.where(enough_s, n_images_s, 1)
    per_latent_s = np.where(enough_s, value_ns.sum(0) / divisor_s, np.nan)
    variance_ns = np.where(counted_ns, pairs.deviation_ns.double().numpy(force=True) ** 2, 0)
    deviation_s = np.sqrt(variance_ns.sum(0)) / divisor_s
    chance = -1 / (n_patches - 1)
    z_s = (per_latent_s - chance) / np.where(deviation_s > 0, deviation_s, np.nan)
    scored = draw_latents(enough_s.nonzero()[0], max_latents, seed)
    scores = per_latent_s[scored]
    return MoransScore(
        float(scores.mean()) if len(scores) else float("nan"),
        chance,
        per_latent_s,
        z_s,
        float((scores < threshold).mean()) if len(scores) else float("nan"),
        scored,
        value_ns[:, scored],
        counted_ns[:, scored],
    )


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


def _within_cap(
    counted_ns: Bool[np.ndarray, "n s"], max_images: int, block: int, shard: int | None
) -> Bool[np.ndarray, "n s"]:
    """Whether a latent has fewer than ``max_images`` when the block of an image begins."""
    n = len(counted_ns)
    position = np.arange(n) % (shard or max(n, 1))
    first = np.arange(n) - position % block
    before_ns = np.concatenate([np.zeros_like(counted_ns[:1], int), counted_ns.cumsum(0)])
    return before_ns[first] < max_images
