"""How far the patches on which a latent fires lie together: Moran's I, against patches dealt out at random.

Suffixes: s latents, m pairs of image and latent, p patches of the grid.
"""

import numpy as np
import torch
from jaxtyping import Float, Int

from saev.metrics.visaebench.morans_i import morans_i

AT_ONCE = 16_384
"""Pairs of which maps are held, 26 MB on a grid of 14 × 14."""
ABOVE_NULL = 1.645
"""Deviations that ``moran_z`` exceeds by chance for one latent in twenty."""
FEWEST_PATCHES = 4
"""Of a grid on which I has a spread."""


class SpatialCoherence:
    """Moran's I of ranges of latents, mean over the images on which it counts.

    Args:
        grid: patches down and across.
        patches: places of the patches, row-major, among the tokens that the dictionary reads; of
            another number than the grid has, nothing is measured.
        n_tokens: that the dictionary reads of an image.
    """

    def __init__(self, grid: tuple[int, int], patches: list[int], n_tokens: int) -> None:
        self.grid, self.n_tokens = grid, n_tokens
        self.n_patches = grid[0] * grid[1]
        self.is_known = len(patches) == self.n_patches >= FEWEST_PATCHES
        self.patch_of = np.full(n_tokens, -1)
        if self.is_known:
            self.patch_of[patches] = np.arange(self.n_patches)
        self.found: list[tuple[np.ndarray, ...]] = []

    def add(
        self, latent: Int[np.ndarray, " n"], row: Int[np.ndarray, " n"],
        value: Float[np.ndarray, " n"], first: int, last: int,
    ) -> None:  # fmt: skip
        """Codes of the next latents, ``first`` to ``last`` (excluded), sorted by latent and row."""
        total_s, variance_s, n_s = np.zeros((3, last - first))
        if self.is_known:
            image, token = np.divmod(row, self.n_tokens)
            on_patch = self.patch_of[token] >= 0
            latent, image, value = latent[on_patch] - first, image[on_patch], value[on_patch]
            patch = self.patch_of[token[on_patch]]
            starts = np.flatnonzero(np.diff(latent, prepend=-1) | np.diff(image, prepend=-1))
            ends = np.append(starts[1:], len(latent))
            for begin in range(0, len(starts), AT_ONCE):
                pairs = slice(begin, begin + AT_ONCE)
                codes = slice(starts[begin], ends[pairs][-1])
                of_pair = np.repeat(np.arange(len(starts[pairs])), (ends - starts)[pairs])
                maps_mp = np.zeros((len(starts[pairs]), self.n_patches))
                maps_mp[of_pair, patch[codes]] = value[codes]
                morans = morans_i(torch.from_numpy(maps_mp).view(-1, 1, *self.grid))
                counts = morans.counted_ns[:, 0].numpy()
                mine = latent[starts[pairs]][counts]
                np.add.at(total_s, mine, morans.value_ns[:, 0].numpy()[counts])
                np.add.at(variance_s, mine, morans.deviation_ns[:, 0].square().numpy()[counts])
                np.add.at(n_s, mine, 1)
        self.found.append((total_s, variance_s, n_s))

    def columns(self) -> dict[str, Float[np.ndarray, " s"]]:
        """``moran``, ``moran_z`` and ``moran_images`` of all latents added.

        ``moran_z`` is the distance of the mean from its value under patches dealt out at random in each
        image, −1/(p − 1), in standard deviations of that mean; nan where no image counts.
        """
        total_s, variance_s, n_s = (np.concatenate(one) for one in zip(*self.found, strict=True))
        null = -1 / (self.n_patches - 1) if self.is_known else np.nan
        with np.errstate(invalid="ignore", divide="ignore"):
            mean_s = total_s / n_s
            z_s = (total_s - n_s * null) / np.sqrt(variance_s)
        return {"moran": mean_s, "moran_z": np.where(n_s > 0, z_s, np.nan), "moran_images": n_s}
