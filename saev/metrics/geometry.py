"""Geometry of atoms: angles between them, and between sets of them.

Suffixes: s atoms, d width, n activations.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

CHUNK = 4096
"""Atoms compared at once: 24,576² cosines would take 2.4 GB."""
ANTIPODAL = -0.9
"""Largest cosine of atoms that count as mirror images."""


class Geometry(NamedTuple):
    """Of unit atoms."""

    coherence: float
    """Largest |cosine| of two atoms. Null value for s random atoms: about √(4 ln s / d)."""
    nearest: Float[Tensor, " s"]
    """Each atom's largest cosine to another. Null value: about √(2 ln s / d)."""
    opposite: Float[Tensor, " s"]
    """Each atom's smallest cosine to another, −1 for its mirror image; 0 for a single atom. Null value:
    about −√(2 ln s / d)."""
    opposite_at: Int[Tensor, " s"]
    """Which one that is."""
    stable_rank: float
    """‖D‖²_F / ‖D‖²₂, at most d. Null value for s ≫ d random atoms: d / (1 + √(d/s))²."""
    effective_rank: float
    """exp of the entropy of the normalised singular values (Roy & Vetterli 2007), at most d."""


def geometry(atoms_sd: Float[Tensor, "s d"]) -> Geometry:
    """Coherence and ranks, in chunks. Source: definitions as in Fel et al. 2025 (arXiv 2502.12892)."""
    unit = F.normalize(atoms_sd.double(), dim=-1)
    nearest, opposite, opposite_at, coherence = [], [], [], 0.0
    for first in range(0, len(unit), CHUNK):
        cosine = unit[first : first + CHUNK] @ unit.T
        rows = torch.arange(len(cosine))
        cosine[rows, rows + first] = -1.0
        nearest.append(cosine.max(1).values)
        cosine[rows, rows + first] = 0.0
        least = cosine.min(1)
        opposite.append(least.values)
        opposite_at.append(least.indices)
        coherence = max(coherence, float(cosine.abs().max()))
    singular = torch.linalg.svdvals(unit)
    share = singular / singular.sum()
    entropy = -(share * share.clamp_min(1e-300).log()).sum()
    return Geometry(
        coherence,
        torch.cat(nearest).float(),
        torch.cat(opposite).float(),
        torch.cat(opposite_at),
        float(singular.square().sum() / singular[0].square()),
        float(entropy.exp()),
    )


def antipodal_pairs(found: Geometry) -> int:
    """Pairs of atoms that are each other's opposite, with a cosine of at most ``ANTIPODAL``: one feature
    that takes two latents for its two signs. Null value for random atoms: 0 at any usual width."""
    own = torch.arange(len(found.opposite), device=found.opposite_at.device)
    mutual = found.opposite_at[found.opposite_at] == own
    return int((mutual & (found.opposite <= ANTIPODAL)).sum()) // 2


def matched_cosine(
    atoms_sd: Float[Tensor, "s d"], other_sd: Float[Tensor, "s d"]
) -> tuple[Float[Tensor, " s"], Int[Tensor, " s"]]:
    """One-to-one matching of two dictionaries that maximises the sum of cosines (Hungarian method).

    Returns the cosine of each atom with its match, and the match. Their mean is the *stability* of
    Fel et al. 2025 (arXiv 2502.12892). Null value for random atoms: 0.119 at d = 768, s = 2000.
    """
    from scipy.optimize import linear_sum_assignment

    cosine = (
        F.normalize(atoms_sd.double(), dim=-1) @ F.normalize(other_sd.double(), dim=-1).T
    ).cpu()
    rows, columns = linear_sum_assignment(cosine.numpy(), maximize=True)
    matched = torch.as_tensor(columns)
    return cosine[torch.as_tensor(rows), matched].float(), matched


def random_atoms(n: int, width: int, seed: int = 0) -> Float[Tensor, "s d"]:
    """Unit atoms drawn uniformly on the sphere: the null of every number above."""
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, width, generator=generator), dim=-1)
