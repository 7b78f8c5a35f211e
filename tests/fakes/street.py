"""Labels of drawn street scenes, and codes that know nothing of what classes are called."""

import numpy as np
from scipy.sparse import csr_matrix

N_CLASSES, GRID = 8, 196
MEAN_SIZE = np.array([60, 34, 26, 12, 7, 4, 2, 1.2])
"""Patches of a class in an image that shows it: a road, the sky, … a sign."""
SHOWN = np.array([1, 0.9, 0.9, 0.7, 0.8, 0.6, 0.8, 0.5])


def street_labels(rng: np.random.Generator, n_images: int) -> tuple[np.ndarray, np.ndarray]:
    """Class and image of every labelled patch."""
    labels = []
    for _ in range(n_images):
        size = np.where(rng.random(N_CLASSES) < SHOWN, rng.gamma(3, MEAN_SIZE / 3), 0)
        size = np.floor(size * min(1, GRID / size.sum())).astype(int)
        labels.append(np.repeat(np.arange(N_CLASSES), size))
    return np.concatenate(labels), np.arange(n_images).repeat([len(one) for one in labels])


def blind_codes(
    labels: np.ndarray, image: np.ndarray, n_latents: int, by: str, rng: np.random.Generator
) -> csr_matrix:
    """Latents that fire at random: patch by patch, or on whole regions ("region")."""
    rate = np.exp(rng.uniform(np.log(0.005), np.log(0.4), n_latents))
    fires = rng.random((len(labels), n_latents)) < rate
    if by == "region":
        _, region = np.unique(image * (labels.max() + 1) + labels, return_inverse=True)
        seen = rng.random((region.max() + 1, n_latents)) < rate
        fires = seen[region] & (rng.random(fires.shape) < 0.8)
    codes = np.where(fires, rng.exponential(size=fires.shape), 0)
    return csr_matrix(codes.astype(np.float32))
