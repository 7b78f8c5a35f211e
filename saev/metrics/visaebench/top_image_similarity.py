"""M5, monosemanticity: likeness of a latent's strongest images, as another backbone sees them.

Suffixes: n images, s latents, k scored latents, t top images, e embedding, r bootstrap draws.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from saev.metrics.visaebench.classifier import check_one_each
from saev.metrics.visaebench.seeded import SEED, draw_latents


class TopImageSimilarity(NamedTuple):
    """One value per scored latent."""

    latents_k: Int[np.ndarray, " k"]
    """Alive latents that were drawn and whose weights do not vanish."""
    per_latent_k: Float[np.ndarray, " k"]
    chance: float
    """Mean cosine of all pairs of images: the exact mean of any latent's value when images are
    permuted."""
    top_kt: Int[np.ndarray, "k t"]
    """Images, the strongest first."""
    weight_ktt: Float[np.ndarray, "k t t"]
    """Products of the weights of two images, 0 from the diagonal down."""
    cosine_ktt: Float[np.ndarray, "k t t"]

    @property
    def value(self) -> float:
        """Mean over the scored latents; nan where there is none (the benchmark says 0)."""
        return float(self.per_latent_k.mean()) if len(self.per_latent_k) else float("nan")

    def resampled(self, weight_rn: Float[np.ndarray, "r n"]) -> Float[np.ndarray, " r"]:
        """The value under weights of images among the same top images; an image and its own copy
        are no pair."""
        drawn_rk = np.stack([self._under(weight_n) for weight_n in weight_rn])
        number_r = (~np.isnan(drawn_rk)).sum(1)
        return np.nansum(drawn_rk, 1) / np.where(number_r > 0, number_r, np.nan)

    def _under(self, weight_n: Float[np.ndarray, " n"]) -> Float[np.ndarray, " k"]:
        times_kt = weight_n[self.top_kt]
        return _weighted(
            self.weight_ktt * times_kt[:, :, None] * times_kt[:, None], self.cosine_ktt
        )


def top_image_similarity(
    codes_ns: Float[np.ndarray, "n s"],
    embedding_ne: Float[np.ndarray, "embeddings e"],
    *,
    top_images: int = 16,
    max_latents: int = 1000,
    seed: int = SEED,
) -> TopImageSimilarity:
    """MS = Σ_{a<b} w_a w_b cos(e_a, e_b) / Σ_{a<b} w_a w_b over the 16 images with the largest codes.

    w is the image code scaled by the smallest and the largest of the latent over all images. The
    embedding of an image is the mean of its patches in the last block of a backbone other than the
    dictionary's; its length does not matter. Latents that never fire are left out, of the rest at
    most ``max_latents`` drawn ones are scored, and of these not those that a single image fires.
    Range [−1, 1].

    Null value: ``chance``, the mean cosine of all pairs of images, whatever the weights.
    Source: ViSAEBench 0.1.0, M5. ``saev.metrics.monosemanticity`` takes all images in place of
    16, as Pach et al. 2025 (arXiv 2504.02821) do.

    Raises:
        ValueError: not as many embeddings as images.
    """
    check_one_each(len(codes_ns), len(embedding_ne), "embeddings")
    codes_ns = np.asarray(codes_ns, np.float32)
    unit_ne = np.asarray(embedding_ne, np.float64)
    unit_ne = unit_ne / np.maximum(np.linalg.norm(unit_ne, axis=1, keepdims=True), 1e-12)
    n = len(unit_ne)
    latents = draw_latents((codes_ns.max(0) > 0).nonzero()[0], max_latents, seed)
    codes_nk = codes_ns[:, latents]
    top_tk = np.argpartition(codes_nk, -min(top_images, n), axis=0)[-min(top_images, n) :]
    order_tk = np.take_along_axis(codes_nk, top_tk, 0).argsort(0)[::-1]
    top_kt = np.take_along_axis(top_tk, order_tk, 0).T
    low_k, high_k = codes_nk.min(0), codes_nk.max(0)
    range_k = np.where(high_k > low_k, high_k - low_k, 1)
    weight_kt = (codes_nk[top_kt, np.arange(len(latents))[:, None]] - low_k[:, None]).astype(float)
    weight_kt /= range_k[:, None]
    weight_ktt = np.triu(weight_kt[:, :, None] * weight_kt[:, None], k=1)
    cosine_ktt = unit_ne[top_kt] @ unit_ne[top_kt].swapaxes(1, 2)
    per_latent_k = _weighted(weight_ktt, cosine_ktt)
    known = ~np.isnan(per_latent_k)
    chance = (np.square(unit_ne.sum(0)).sum() - n) / (n * (n - 1))
    return TopImageSimilarity(
        latents[known],
        per_latent_k[known],
        float(chance),
        top_kt[known],
        weight_ktt[known],
        cosine_ktt[known],
    )


def top_image_null(
    codes_ns: Float[np.ndarray, "n s"],
    embedding_ne: Float[np.ndarray, "n e"],
    rng: np.random.Generator,
    **options: Any,
) -> TopImageSimilarity:
    """The null of M5: the same with the embeddings of other images; its mean is ``chance``."""
    return top_image_similarity(codes_ns, rng.permutation(embedding_ne), **options)


def _weighted(
    weight_ktt: Float[np.ndarray, "k t t"], cosine_ktt: Float[np.ndarray, "k t t"]
) -> Float[np.ndarray, " k"]:
    total_k = weight_ktt.sum((1, 2))
    return (weight_ktt * cosine_ktt).sum((1, 2)) / np.where(total_k > 0, total_k, np.nan)
