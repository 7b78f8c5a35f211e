"""Sparse codes of some images, sorted by latent: what the pass over images leaves behind.

Suffixes: b images, p tokens chosen per image, s latents, n stored codes, e embedding, c classes.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


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


class PartBuilder:
    """Collects batches of dense codes into one ``CodePart``; dense codes are dropped at once."""

    def __init__(self, n_latents: int, n_tokens: int) -> None:
        self.n_latents, self.n_tokens = n_latents, n_tokens
        self.n_images = 0
        self._latent: list[Tensor] = []
        self._row: list[Tensor] = []
        self._value: list[Tensor] = []
        self._normal: list[Tensor] = []
        self._embedding: list[Tensor] = []
        self._logits: list[Tensor] = []

    @torch.no_grad()
    def add(self, z_bps: Float[Tensor, "b p s"], normal_bp: Bool[Tensor, "b p"]) -> None:
        """The codes of a few images; those of tokens that are not normal are left out."""
        z = z_bps.flatten(0, 1)
        row, latent = (z > 0).nonzero(as_tuple=True)
        kept = normal_bp.flatten()[row]
        row, latent = row[kept], latent[kept]
        self._value.append(z[row, latent].float().cpu())
        self._row.append((row + self.n_images * self.n_tokens).int().cpu())
        self._latent.append(latent.int().cpu())
        self._normal.append(normal_bp.cpu())
        self.n_images += len(z_bps)

    def add_outputs(
        self, embedding_be: Float[Tensor, "b e"], logits_bc: Float[Tensor, "b c"] | None
    ) -> None:
        """What the model answered for the same images, in the same order."""
        self._embedding.append(embedding_be.float().cpu())
        if logits_bc is not None:
            self._logits.append(logits_bc.half().cpu())

    def build(self) -> CodePart:
        latent = torch.cat(self._latent).long()
        order = latent.argsort(stable=True)  # rows were added in rising order
        counts = torch.bincount(latent, minlength=self.n_latents)
        indptr = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
        return CodePart(
            n_tokens=self.n_tokens,
            indptr=indptr.numpy(),
            row=torch.cat(self._row)[order].numpy(),
            value=torch.cat(self._value)[order].numpy(),
            normal=torch.cat(self._normal).numpy(),
            embedding=torch.cat(self._embedding).numpy(),
            logits=torch.cat(self._logits).numpy() if self._logits else None,
        )


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
