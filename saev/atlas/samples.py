"""Exemplars of a latent: its strongest images, some of every strength, and near misses.

Suffixes: s latents, b images, e embedding.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from saev.codes.sparse_codes import ImageCodes

N_DECILES = 10
BLOCK = 256
"""Latents compared with all images at once: 51 MB for 50,000 images."""


class Samples(NamedTuple):
    """Rows of a table, one per latent, role and rank."""

    latent: Int[np.ndarray, " n"]
    role: list[str]
    """ "max" and "sum": strongest by largest code and by sum of codes; "class": strongest on the class
    token, for dictionaries of that token; "decile": one image of each tenth of the latent's firing
    images, from weak (rank 0) to strong; "near_miss": images without the
    latent that are most similar to its strongest ones."""
    rank: Int[np.ndarray, " n"]
    image: Int[np.ndarray, " n"]
    """Position in the list of images."""
    value: Float[np.ndarray, " n"]
    """Largest code on the image (on the class token for "class"); 0 for near misses."""
    sum: Float[np.ndarray, " n"]
    token: Int[np.ndarray, " n"]
    """Where the largest code stands; −1 for near misses."""


def centred(embedding_be: Float[np.ndarray, "b e"]) -> Float[np.ndarray, "b e"]:
    """Unit embeddings without their mean, so that similarity tells images apart."""
    norm = np.linalg.norm(embedding_be, axis=1, keepdims=True)
    unit_be = embedding_be / np.maximum(norm, 1e-12)
    return unit_be - unit_be.mean(0)


def collect_samples(
    codes: ImageCodes,
    latents: range,
    centred_be: Float[np.ndarray, "b e"],
    *,
    on_class_token: ImageCodes | None = None,
    n_top: int = 16,
    n_near_misses: int = 4,
    seed: int = 0,
) -> Samples:
    """Samples of the latents whose codes are given, in the order of ``latents``.

    Equal codes keep the order of images, and decile samples are drawn per latent from ``seed``, so
    the result does not depend on how the codes were divided.

    Args:
        codes: sorted by latent, then image.
        centred_be: of :func:`centred`; near misses are similar in it.
        on_class_token: the codes of the class token alone, where the dictionary reads it.
    """
    bounds = np.searchsorted(codes.latent, np.arange(latents.start, latents.stop + 1))
    rows: dict[int, list[_Row]] = {}
    shown: dict[int, np.ndarray] = {}
    for latent, (begin, end) in zip(latents, pairwise(bounds), strict=True):
        if begin == end:
            continue
        own = slice(begin, end)
        by_max = (-codes.max[own]).argsort(kind="stable")
        chosen = {
            "max": by_max[:n_top],
            "sum": (-codes.sum[own]).argsort(kind="stable")[:n_top],
            "decile": _deciles(by_max[::-1], np.random.default_rng([seed, latent])),
        }
        rows[latent] = [
            _row(codes, int(begin + at), latent, role, rank)
            for role, places in chosen.items()
            for rank, at in enumerate(places)
        ]
        shown[latent] = codes.image[own][by_max[:n_top]]
    if on_class_token is not None:
        _add_class_token(rows, on_class_token, n_top)
    _add_near_misses(rows, shown, codes, bounds, latents.start, centred_be, n_near_misses)
    flat = [row for latent in sorted(rows) for row in rows[latent]]
    latent, role, rank, image, value, total, token = zip(*flat, strict=True) if flat else [()] * 7
    return Samples(
        np.array(latent, np.int64), list(role), np.array(rank, np.int64),
        np.array(image, np.int64), np.array(value, float), np.array(total, float),
        np.array(token, np.int64),
    )  # fmt: skip


_Row = tuple[int, str, int, int, float, float, int]


def _row(codes: ImageCodes, entry: int, latent: int, role: str, rank: int) -> _Row:
    return (
        latent, role, rank, int(codes.image[entry]), float(codes.max[entry]),
        float(codes.sum[entry]), int(codes.token[entry]),
    )  # fmt: skip


def _deciles(rising: Int[np.ndarray, " n"], rng: np.random.Generator) -> Int[np.ndarray, " m"]:
    """One of each tenth; with fewer than ten images all of them."""
    if len(rising) <= N_DECILES:
        return rising
    edges = np.linspace(0, len(rising), N_DECILES + 1).astype(int)
    return np.array([rising[rng.integers(a, b)] for a, b in pairwise(edges)])


def _add_class_token(rows: dict[int, list[_Row]], codes: ImageCodes, n_top: int) -> None:
    order = np.lexsort((-codes.max, codes.latent))
    for latent in np.unique(codes.latent):
        first, last = np.searchsorted(codes.latent, [latent, latent + 1])
        for rank, entry in enumerate(order[first : min(last, first + n_top)]):
            rows[int(latent)].append(_row(codes, int(entry), int(latent), "class", rank))


def _add_near_misses(
    rows: dict[int, list[_Row]],
    shown: dict[int, Int[np.ndarray, " n"]],
    codes: ImageCodes,
    bounds: Int[np.ndarray, " s1"],
    start: int,
    centred_be: Float[np.ndarray, "b e"],
    count: int,
) -> None:
    """Images without the latent that are most similar to its strongest ones; one matrix product
    serves many latents."""
    latents = sorted(shown)
    for first in range(0, len(latents), BLOCK):
        block = latents[first : first + BLOCK]
        centre_se = np.stack([centred_be[shown[latent]].mean(0) for latent in block])
        similarity_sb = centre_se @ centred_be.T
        for row, latent in enumerate(block):
            own = slice(bounds[latent - start], bounds[latent - start + 1])
            similarity_sb[row, codes.image[own]] = -np.inf
        keep = min(count, similarity_sb.shape[1])
        best = np.argpartition(-similarity_sb, keep - 1, axis=1)[:, :keep]
        for row, latent in enumerate(block):
            order = best[row][np.lexsort((best[row], -similarity_sb[row, best[row]]))]
            rows[latent] += [
                (latent, "near_miss", rank, int(image), 0.0, 0.0, -1)
                for rank, image in enumerate(order)
                if similarity_sb[row, image] > -np.inf
            ]
