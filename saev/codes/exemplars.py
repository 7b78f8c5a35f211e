"""Exemplars: the images and patches on which each latent is strongest, found in one pass.

Suffixes: b images, p patches, s latents, n exemplars kept per latent.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saev.codes.store import CodeStore


class Exemplar(NamedTuple):
    """One image on which a latent is strong."""

    image: int
    """Index of the image, as given to :meth:`Exemplars.update`."""
    patch: int
    """Index of its strongest patch, row-major on the grid."""
    value: float
    """The code there."""


class Exemplars:
    """Keeps, for every latent, the ``n_top`` images with the largest code, one patch per image.

    Memory is 3 · n_top · d_sae numbers, whatever the number of images.
    """

    def __init__(self, d_sae: int, n_top: int = 8) -> None:
        self.value_ns = torch.zeros(n_top, d_sae)
        self.image_ns = torch.full((n_top, d_sae), -1)
        self.patch_ns = torch.full((n_top, d_sae), -1)

    @torch.no_grad()
    def update(self, z_bps: Float[Tensor, "b p s"], images_b: Int[Tensor, " b"]) -> None:
        """Adds the codes of every patch of a few images; ``images_b`` are their indices."""
        peak_bs, patch_bs = z_bps.max(1)
        image_bs = images_b.to(peak_bs.device)[:, None].expand_as(patch_bs)
        value = torch.cat([self.value_ns.to(peak_bs), peak_bs])
        top = value.topk(self.value_ns.shape[0], dim=0)
        self.value_ns = top.values
        self.image_ns = torch.cat([self.image_ns.to(image_bs), image_bs]).gather(0, top.indices)
        self.patch_ns = torch.cat([self.patch_ns.to(patch_bs), patch_bs]).gather(0, top.indices)

    def of(self, latent: int) -> list[Exemplar]:
        """The exemplars of one latent, strongest first; empty if it never fired."""
        columns = (self.image_ns[:, latent], self.patch_ns[:, latent], self.value_ns[:, latent])
        return [
            Exemplar(int(image), int(patch), float(value))
            for image, patch, value in zip(*columns, strict=True)
            if value > 0
        ]

    def alive(self, n_images: int = 1) -> Int[Tensor, " n"]:
        """The latents that fired on at least ``n_images`` images (at most ``n_top`` can be told)."""
        return (self.value_ns[n_images - 1] > 0).nonzero()[:, 0]

    def strongest(self, count: int, n_images: int) -> list[int]:
        """The latents whose code is largest on their ``n_images``-th best image, so that one odd
        image does not make a latent strong."""
        return self.value_ns[n_images - 1].topk(count).indices.tolist()


class TopImages(NamedTuple):
    """Strongest images of every latent on two disjoint sets of images."""

    seen: list[list[int]]
    """Discovery and calibration images, positions in the store."""
    test: list[list[int]]
    """Test images, positions among the test images."""
    is_test: Bool[np.ndarray, " b"]


def top_images(store: CodeStore, splits: Sequence[str], n: int = 32) -> TopImages:
    """By the largest code; equal codes keep the order of images."""
    is_test = np.array([split == "test" for split in splits])
    place = is_test.cumsum() - 1
    seen: list[list[int]] = []
    test: list[list[int]] = []
    for first, last in store.chunks():
        codes = store.image_codes(first, last)
        order = np.lexsort((-codes.max, codes.latent))
        latent, image = codes.latent[order], codes.image[order]
        for found, wanted, number in (
            (seen, ~is_test, np.arange(len(is_test))),
            (test, is_test, place),
        ):
            mine = wanted[image]
            bounds = np.searchsorted(latent[mine], np.arange(first, last + 1))
            numbers = number[image[mine]]
            found += [numbers[a : min(b, a + n)].tolist() for a, b in pairwise(bounds)]
    return TopImages(seen, test, is_test)
