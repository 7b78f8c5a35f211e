"""From a class per pixel to a class per patch: counts, majorities, shares.

Suffixes: h w pixels, p patches (row-major), c classes.
"""

import numpy as np
from jaxtyping import Float64, Int64, Integer

IGNORE = 255
"""Value of a mask where there is no class."""

Mask = Integer[np.ndarray, "h w"]
"""Classes below the number of classes, and IGNORE."""


def patch_counts(
    mask: Mask, grid: tuple[int, int], n_classes: int
) -> Int64[np.ndarray, "p columns"]:
    """Pixels of each class in every patch; the last of the n_classes + 1 columns has no class.

    Pixels and patches need not divide evenly: pixel y belongs to patch row ⌊y · gh / h⌋.
    """
    (h, w), (gh, gw) = mask.shape, grid
    patch_hw = (np.arange(h) * gh // h)[:, None] * gw + np.arange(w) * gw // w
    class_hw = np.where(mask == IGNORE, n_classes, mask.astype(np.int64))
    index = (patch_hw * (n_classes + 1) + class_hw).ravel()
    counts = np.bincount(index, minlength=gh * gw * (n_classes + 1))
    return counts.reshape(gh * gw, n_classes + 1)


def majority_of_labelled(
    mask: Mask, grid: tuple[int, int], n_classes: int
) -> Int64[np.ndarray, " p"]:
    """The most frequent class among a patch's pixels that have one (the lowest of equals); IGNORE
    where more than half of them have none."""
    counts = patch_counts(mask, grid, n_classes)
    unlabelled = counts[:, -1] * 2 > counts.sum(1)
    return np.where(unlabelled, IGNORE, counts[:, :-1].argmax(1))


def majority_with_share(
    mask: Mask, grid: tuple[int, int], n_classes: int
) -> tuple[Int64[np.ndarray, " p"], Float64[np.ndarray, " p"]]:
    """What most of each patch's pixels are, −1 where that is no class, and their share of them."""
    shares = patch_shares(mask, grid, n_classes)
    most = shares.argmax(1)
    return np.where(most == n_classes, -1, most), shares.max(1)


def patch_shares(
    mask: Mask, grid: tuple[int, int], n_classes: int
) -> Float64[np.ndarray, "p columns"]:
    """Share of every patch that each class covers; the last of n_classes + 1 columns has none."""
    counts = patch_counts(mask, grid, n_classes)
    return counts / counts.sum(1, keepdims=True)
