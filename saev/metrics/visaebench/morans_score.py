"""M1 of a dictionary: the mean of Moran's I over images, then over latents.

Suffixes: n images, s latents, k scored latents, r bootstrap draws.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from saev.metrics.visaebench.morans_i import PatchMorans
from saev.metrics.visaebench.seeded import SEED, draw_latents


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


def _within_cap(
    counted_ns: Bool[np.ndarray, "n s"], max_images: int, block: int, shard: int | None
) -> Bool[np.ndarray, "n s"]:
    """Whether a latent has fewer than ``max_images`` when the block of an image begins."""
    n = len(counted_ns)
    position = np.arange(n) % (shard or max(n, 1))
    first = np.arange(n) - position % block
    before_ns = np.concatenate([np.zeros_like(counted_ns[:1], int), counted_ns.cumsum(0)])
    return before_ns[first] < max_images
