"""Running sums per latent: all statistics that need no codes kept.

Suffixes: s latents, p tokens per image, h histogram bins, r sketch width, c classes.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from saev.codes.sparse_codes import CodePart, per_image

LOWEST, N_BINS, BINS_PER_OCTAVE = 2.0**-10, 64, 4
"""Codes are counted in bins a quarter octave wide (a factor of 1.19), from 2⁻¹⁰ to 2⁶; what lies
outside counts in the outermost bins."""
QUANTILES = (0.5, 0.9, 0.99)
SKETCH_WIDTH = 256
"""Random signs per token: an estimated co-activation has a standard error of 1/√256 = 0.06."""


class LatentStatistics:
    """Sums over images that add up over parts and processes in any order (up to float rounding).

    Memory is (2 · n_bins + n_tokens + sketch + n_classes) numbers per latent, whatever the number
    of images.

    Args:
        n_latents: d_sae.
        n_tokens: chosen tokens per image.
        n_classes: of the image labels; 0 where there are none.
        seed: of the co-activation sketch.
    """

    def __init__(self, n_latents: int, n_tokens: int, n_classes: int = 0, seed: int = 0) -> None:
        self.n_latents, self.n_tokens, self.seed = n_latents, n_tokens, seed
        self.n_images = 0
        self.normal_p = np.zeros(n_tokens, np.int64)
        self.fired_s = np.zeros(n_latents, np.int64)
        self.fired_images_s = np.zeros(n_latents, np.int64)
        self.sum_s = np.zeros(n_latents)
        self.squares_s = np.zeros(n_latents)
        self.max_s = np.zeros(n_latents, np.float32)
        self.histogram_sh = np.zeros((n_latents, N_BINS), np.int64)
        self.position_sp = np.zeros((n_latents, n_tokens), np.int64)
        self.sketch_sr = np.zeros((n_latents, SKETCH_WIDTH), np.float64)
        self.mass_sc = np.zeros((n_latents, n_classes))

    def update(self, part: CodePart, first_image: int, labels: Int[np.ndarray, " b"]) -> None:
        """Adds a part whose first image is number ``first_image``; label −1 means none."""
        latent = np.repeat(np.arange(self.n_latents), np.diff(part.indptr))
        value = part.value.astype(np.float64)
        self.n_images += part.n_images
        self.normal_p += part.normal.sum(0)
        self.fired_s += np.diff(part.indptr)
        self.sum_s += np.bincount(latent, value, self.n_latents)
        self.squares_s += np.bincount(latent, value**2, self.n_latents)
        np.maximum.at(self.max_s, latent, part.value)
        self._count(self.histogram_sh, latent, _bin(part.value))
        self._count(self.position_sp, latent, part.row % self.n_tokens)
        self._sketch(part, first_image)
        images = per_image(latent, part.row, part.value, self.n_tokens)
        self.fired_images_s += np.bincount(images.latent, minlength=self.n_latents)
        label = labels[images.image]
        known = label >= 0
        np.add.at(self.mass_sc, (images.latent[known], label[known]), images.max[known])

    def _count(self, table: Int[np.ndarray, "s h"], latent: np.ndarray, column: np.ndarray) -> None:
        width = table.shape[1]
        table += np.bincount(latent * width + column, minlength=table.size).reshape(table.shape)

    def _sketch(self, part: CodePart, first_image: int) -> None:
        """Σ over tokens on which a latent fires of a random sign vector that belongs to the token."""
        shape = (part.n_images * self.n_tokens, part.n_latents)
        fired = sparse.csc_matrix((np.ones(len(part.row)), part.row, part.indptr), shape=shape)
        rng = np.random.default_rng([self.seed, first_image])
        signs = rng.integers(0, 2, (shape[0], SKETCH_WIDTH), dtype=np.int8) * 2.0 - 1
        self.sketch_sr += fired.T @ signs

    def merge(self, other: "LatentStatistics") -> None:
        """Adds what another process has seen; ValueError when the shapes or seeds differ."""
        mine, theirs = self.state(), other.state()
        for name in ("n_latents", "n_tokens", "seed"):
            if mine[name] != theirs[name]:
                raise ValueError(f"{name} differs: {mine[name]} and {theirs[name]}")
        for name, value in theirs.items():
            if name == "max_s":
                np.maximum(self.max_s, value, out=self.max_s)
            elif name not in ("n_latents", "n_tokens", "seed"):
                setattr(self, name, getattr(self, name) + value)

    def state(self) -> dict[str, Any]:
        """Every sum by name."""
        return dict(vars(self))

    @property
    def n_normal(self) -> int:
        """Tokens that the dictionary answered for."""
        return int(self.normal_p.sum())

    def quantiles(self) -> Float[np.ndarray, "s q"]:
        """``QUANTILES`` of the positive codes, from the histogram: exact to within a bin."""
        cumulative = self.histogram_sh.cumsum(1)
        edges = LOWEST * 2.0 ** (np.arange(N_BINS + 1) / BINS_PER_OCTAVE)
        result = np.zeros((self.n_latents, len(QUANTILES)))
        for column, quantile in enumerate(QUANTILES):
            target = quantile * self.fired_s
            found = (cumulative >= target[:, None]).argmax(1)
            before = np.where(found > 0, cumulative[np.arange(self.n_latents), found - 1], 0)
            inside = np.maximum(self.histogram_sh[np.arange(self.n_latents), found], 1)
            share = np.clip((target - before) / inside, 0, 1)
            value = edges[found] * (edges[found + 1] / edges[found]) ** share
            result[:, column] = np.where(self.fired_s > 0, np.minimum(value, self.max_s), 0)
        return result

    def position_information(self) -> Float[np.ndarray, " s"]:
        """I(fires; position) / H(fires), 0 to 1; 0 for latents that do not care where they are.

        Plug-in entropies with the Miller–Madow correction (the bias of the information, in nats,
        is (positions − 1)/2n for n tokens), clipped at 0.
        """
        n = max(self.n_normal, 1)
        rate = self.fired_s / n
        inside = self.position_sp / np.maximum(self.normal_p, 1)
        conditional = (_entropy(inside) * self.normal_p).sum(1) / n
        information = _entropy(rate) - conditional - (self.n_tokens - 1) / (2 * n)
        with np.errstate(invalid="ignore", divide="ignore"):
            share = information / _entropy(rate)
        return np.clip(np.nan_to_num(share), 0, 1)

    def coactivation(self, latents: Int[np.ndarray, " k"]) -> Float[np.ndarray, "k s"]:
        """Estimated cosine of firing, co-fired / √(fired_k · fired_l), of some latents with all."""
        counts = self.sketch_sr[latents] @ self.sketch_sr.T / SKETCH_WIDTH
        norm = np.sqrt(np.maximum(self.fired_s, 1))
        return counts / norm[latents, None] / norm[None]


def _bin(value: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    octave = np.log2(np.maximum(value, LOWEST) / LOWEST)
    return np.clip((octave * BINS_PER_OCTAVE).astype(np.int64), 0, N_BINS - 1)


def _entropy(p: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Of a coin with this probability, in nats."""
    q = np.clip(p, 1e-12, 1 - 1e-12)
    return -(q * np.log(q) + (1 - q) * np.log(1 - q))
