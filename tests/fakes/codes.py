"""Codes of a few images: as parts of a store, and as rows × latents with many ties."""

import numpy as np
import torch

from saev.codes.part_builder import PartBuilder
from saev.codes.sparse_codes import CodePart
from saev.concepts.ranked_codes import CodeEntries

N_IMAGES, N_TOKENS, N_LATENTS = 11, 6, 9


def dense_codes(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(N_IMAGES, N_TOKENS, N_LATENTS, generator=generator).relu()
    z = (z * 4).round() / 4  # equal codes occur
    z[..., 4] = 0  # a dead latent
    return z


def build(z: torch.Tensor, normal: torch.Tensor | None = None, batch: int = 3) -> CodePart:
    normal = torch.ones(z.shape[:2], dtype=torch.bool) if normal is None else normal
    builder = PartBuilder(z.shape[2], z.shape[1])
    for first in range(0, len(z), batch):
        span = slice(first, first + batch)
        builder.add(z[span], normal[span])
        builder.add_outputs(torch.randn(len(z[span]), 3), None)
    return builder.build()


def random_codes(n_rows: int, n_latents: int, seed: int, levels: int = 4) -> np.ndarray:
    """Rows × latents, more than half of it zero, few distinct values: ties everywhere."""
    rng = np.random.default_rng(seed)
    dense = rng.integers(0, levels + 1, (n_rows, n_latents)) / levels
    return (dense * (rng.random(dense.shape) < 0.5)).astype(np.float32)


def sparse_codes(dense: np.ndarray) -> CodeEntries:
    latent, row = dense.T.nonzero()
    return CodeEntries(latent, row, dense[row, latent], dense.shape[1], dense.shape[0])
