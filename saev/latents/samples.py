"""The images that show a latent: its strongest, some of every strength, and near misses.

Suffixes: s latents, b images, e embedding.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from saev.latents.codes import ImageCodes

N_DECILES = 10


class Samples(NamedTuple):
    """Rows of a table, one per latent, role and rank."""

    latent: Int[np.ndarray, " n"]
    role: list[str]
    """ "max" and "sum": strongest by largest code and by sum of codes; "decile": one image of each
    tenth of the latent's firing images, from weak (rank 0) to strong; "near_miss": silent images most
    like the strongest ones."""
    rank: Int[np.ndarray, " n"]
    image: Int[np.ndarray, " n"]
    """Position in the list of images."""
    value: Float[np.ndarray, " n"]
    """Largest code on the image; 0 for near misses."""
    sum: Float[np.ndarray, " n"]
    token: Int[np.ndarray, " n"]
    """Where the largest code stands; −1 for near misses."""


def collect_samples(
    codes: ImageCodes,
    latents: range,
    embedding_be: Float[np.ndarray, "b e"],
    *,
    n_top: int = 16,
    n_near_misses: int = 4,
    seed: int = 0,
) -> Samples:
    """Samples of the latents whose codes are given, in the order of ``latents``.

    Equal codes keep the order of images, and decile samples are drawn per latent from ``seed``, so
    the result does not depend on how the codes were divided.
    """
    norm = np.linalg.norm(embedding_be, axis=1, keepdims=True)
    unit_be = embedding_be / np.maximum(norm, 1e-12)
    unit_be = unit_be - unit_be.mean(0)
    bounds = np.searchsorted(codes.latent, np.arange(latents.start, latents.stop + 1))
    rows: list[tuple[int, str, int, int, float, float, int]] = []
    for index, latent in enumerate(latents):
        own = slice(bounds[index], bounds[index + 1])
        image, value = codes.image[own], codes.max[own]
        if not len(image):
            continue
        by_max = (-value).argsort(kind="stable")
        chosen = {
            "max": by_max[:n_top],
            "sum": (-codes.sum[own]).argsort(kind="stable")[:n_top],
            "decile": _deciles(by_max[::-1], np.random.default_rng([seed, latent])),
        }
        for role, places in chosen.items():
            for rank, at in enumerate(places):
                entry = own.start + int(at)
                rows.append(
                    (latent, role, rank, int(codes.image[entry]), float(codes.max[entry]),
                     float(codes.sum[entry]), int(codes.token[entry]))
                )  # fmt: skip
        centre = unit_be[image[by_max[:n_top]]].mean(0)
        for rank, far in enumerate(_silent_and_alike(centre, unit_be, image, n_near_misses)):
            rows.append((latent, "near_miss", rank, far, 0.0, 0.0, -1))
    latent, role, rank, image, value, total, token = zip(*rows, strict=True) if rows else [()] * 7
    return Samples(
        np.array(latent, np.int64), list(role), np.array(rank, np.int64),
        np.array(image, np.int64), np.array(value, float), np.array(total, float),
        np.array(token, np.int64),
    )  # fmt: skip


def _deciles(rising: Int[np.ndarray, " n"], rng: np.random.Generator) -> Int[np.ndarray, " m"]:
    """One of each tenth; with fewer than ten images all of them."""
    if len(rising) <= N_DECILES:
        return rising
    edges = np.linspace(0, len(rising), N_DECILES + 1).astype(int)
    return np.array([rising[rng.integers(a, b)] for a, b in pairwise(edges)])


def _silent_and_alike(
    centre: Float[np.ndarray, " e"],
    unit_be: Float[np.ndarray, "b e"],
    firing: Int[np.ndarray, " n"],
    count: int,
) -> list[int]:
    likeness = unit_be @ centre
    likeness[firing] = -np.inf
    order = (-likeness).argsort(kind="stable")[:count]
    return [int(image) for image in order if likeness[image] > -np.inf]
