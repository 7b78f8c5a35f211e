"""Batches of dense codes in torch → one part of sparse codes in NumPy.

Apart from ``sparse_codes``, so that whoever only reads codes need not wait for torch.

Suffixes: b images, p tokens chosen per image, s latents, e embedding, c classes.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saev.codes.sparse_codes import CodePart


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
