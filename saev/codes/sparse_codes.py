"""Sparse codes of some images, sorted by latent: what the pass over images leaves behind.

Suffixes: b images, p tokens chosen per image, s latents, n stored codes, e embedding, c classes.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped


class ImageCodes(NamedTuple):
    """One entry per latent and image on which it fires, sorted by latent, then image."""

    latent: Int[np.ndarray, " n"]
    image: Int[np.ndarray, " n"]
    max: Float[np.ndarray, " n"]
    """Largest code over the image's tokens."""
    sum: Float[np.ndarray, " n"]
    """Sum of the codes over the image's tokens."""
    token: Int[np.ndarray, " n"]
    """Where the largest code stands, the first of equals; a place among the chosen tokens."""
    count: Int[np.ndarray, " n"]
    """Tokens of the image on which the latent fires."""


@dataclass(frozen=True)
class CodePart:
    """The positive codes of some images, by latent (compressed sparse columns), and what goes along.

    Entries of latent k are ``indptr[k]:indptr[k + 1]``; ``row`` counts image · n_tokens + token and
    rises within a latent.
    """

    n_tokens: int
    """Chosen tokens per image."""
    indptr: Int[np.ndarray, " s1"]
    row: Int[np.ndarray, " n"]
    value: Float[np.ndarray, " n"]
    normal: Bool[np.ndarray, "b p"]
    """Tokens that the dictionary answers for; the others have no codes."""
    embedding: Float[np.ndarray, "b e"]
    """Of each image, for similarity; not normalised."""
    logits: Float[np.ndarray, "b c"] | None = None
    """Of the model's own classifier."""

    @property
    def n_images(self) -> int:
        return len(self.normal)

    @property
    def n_latents(self) -> int:
        return len(self.indptr) - 1

    def arrays(self) -> dict[str, Shaped[np.ndarray, "..."]]:
        """Everything by name, as it is stored."""
        stored: dict[str, np.ndarray] = {
            "indptr": self.indptr,
            "row": self.row,
            "value": self.value,
            "normal": self.normal.astype(np.uint8),
            "embedding": self.embedding,
        }
        return stored if self.logits is None else stored | {"logits": self.logits}


def per_image(
    latent: Int[np.ndarray, " n"],
    row: Int[np.ndarray, " n"],
    value: Float[np.ndarray, " n"],
    n_tokens: int,
) -> ImageCodes:
    """Codes per token, sorted by latent and row, gathered per image."""
    if not len(latent):
        empty = np.zeros(0, np.int64)
        return ImageCodes(empty, empty, np.zeros(0, np.float32), np.zeros(0), empty, empty)
    image = row // n_tokens
    new = np.ones(len(latent), bool)
    new[1:] = (latent[1:] != latent[:-1]) | (image[1:] != image[:-1])
    starts = new.nonzero()[0]
    counts = np.diff(starts, append=len(latent))
    largest = np.maximum.reduceat(value, starts)
    group = np.repeat(np.arange(len(starts)), counts)
    at_max = (value == largest[group]).nonzero()[0]
    _, first = np.unique(group[at_max], return_index=True)
    return ImageCodes(
        latent=latent[starts],
        image=image[starts].astype(np.int64),
        max=largest,
        sum=np.add.reduceat(value.astype(np.float64), starts),
        token=(row[at_max[first]] % n_tokens).astype(np.int64),
        count=counts.astype(np.int64),
    )
