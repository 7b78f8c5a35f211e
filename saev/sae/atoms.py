"""Parameterisations of the atoms in training: unit, free, frozen, archetypal; one class a choice.

The dictionary's ``W_dec`` always holds the atoms as they are now; what is trained may be something
else that they are made of.

Shapes: `n` data points, `d` d_model, `s` d_sae.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from saev.sae.initialize import normalize_atoms_, remove_parallel_gradient_
from saev.sae.model import SparseAutoencoder


class UnitAtoms(nn.Module):
    """Every atom a free direction of norm 1, kept there by projection (Bricken et al. 2023)."""

    unit = True
    """Whether atoms have norm 1 while they are trained."""
    rows_are_free = True
    """Whether an atom may be set from outside, as resampling does."""

    def attach(self, sae: SparseAutoencoder) -> None:
        """Called once, before the optimiser is made."""

    def start_from(self, sae: SparseAutoencoder, pool_bar: Float[Tensor, "m d"]) -> None:
        """Called once with normalised activations, before training and not on resume."""

    def atoms(self, sae: SparseAutoencoder) -> Float[Tensor, "s d"]:
        """The atoms, with gradients to what is trained."""
        return sae.W_dec

    @torch.no_grad()
    def after_backward(self, sae: SparseAutoencoder) -> None:
        """What happens to gradients before anyone looks at them."""
        if sae.W_dec.grad is not None:
            remove_parallel_gradient_(sae.W_dec.grad, sae.W_dec)

    @torch.no_grad()
    def after_step(self, sae: SparseAutoencoder) -> None:
        """Brings the atoms back to where they may be."""
        normalize_atoms_(sae.W_dec)

    def describe(self) -> dict[str, Any]:
        """JSON-able: what a dictionary's recipe says of it."""
        return {"kind": type(self).__name__}


class FrozenAtoms(UnitAtoms):
    """Random atoms that are never trained: only the encoder learns. A baseline."""

    rows_are_free = False

    def attach(self, sae: SparseAutoencoder) -> None:
        sae.W_dec.requires_grad_(False)


class FreeAtoms(UnitAtoms):
    """Atoms of any norm, which the penalty must count in; folded into the codes on export.

    Source: Anthropic's April 2024 update, which starts them at a norm of 0.05 to 1.

    Args:
        start_norm: norm of the atoms of a new dictionary, and of its encoder rows.
    """

    unit = False

    def __init__(self, start_norm: float | int) -> None:
        super().__init__()
        if not start_norm > 0:
            raise ValueError(f"FreeAtoms: start_norm must be positive, got {start_norm}.")
        self.start_norm = start_norm

    @torch.no_grad()
    def attach(self, sae: SparseAutoencoder) -> None:
        sae.W_dec.mul_(self.start_norm)
        sae.W_enc.mul_(self.start_norm)

    def after_backward(self, sae: SparseAutoencoder) -> None:
        pass

    def after_step(self, sae: SparseAutoencoder) -> None:
        pass

    def describe(self) -> dict[str, Any]:
        return {"kind": type(self).__name__, "start_norm": self.start_norm}


@torch.no_grad()
def fold_norms_(sae: SparseAutoencoder) -> None:
    """Give every atom norm 1 and make its codes larger by what it was, in place.

    Reconstructions stay the same. An atom of norm 0 stays as it is: it says nothing.
    """
    norms = torch.linalg.vector_norm(sae.W_dec, dim=1)
    norms = torch.where(norms > 0, norms, 1.0)
    sae.W_dec.div_(norms[:, None])
    sae.W_enc.mul_(norms[:, None])
    sae.b_enc.mul_(norms)
    if sae.cfg.activation == "jump_relu":
        sae.threshold.mul_(norms)
    elif sae.cfg.activation == "gated":
        sae.b_mag.mul_(norms)


PROJECTED_WEIGHTS = 2**18
"""Weights projected at once: 1 MB, which stays in the cache."""


@torch.no_grad()
def project_to_simplex_(rows: Float[Tensor, "s n"]) -> None:
    """Move every row to the nearest one that is non-negative and sums to 1, in place.

    w ← max(w − τ, 0). What moves all weights alike, as the first steps of Adam do, changes nothing;
    a clamp and a division by the sum would make a row of one point one of half of the points, at
    2,048 of them and a learning rate of 1e-3 in a single step. τ, at which the row sums to 1, is
    found from below in a few steps of Newton's (Michelot 1986; Condat 2016).
    """
    for block in rows.split(max(1, PROJECTED_WEIGHTS // rows.shape[1])):
        tau, n_inside = block.amax(1) - 1, torch.zeros_like(block[:, 0], dtype=torch.long)
        while True:
            above = F.relu(block - tau[:, None])
            n_before, n_inside = n_inside, torch.count_nonzero(above, 1)
            if torch.equal(n_inside, n_before):
                break
            # Never down: rounding could go back and forth between two counts for ever.
            tau = tau + ((above.sum(1) - 1) / n_inside).clamp_min(0)
        block.copy_(above)


class ArchetypalAtoms(UnitAtoms):
    """Atoms are unit vectors of relaxed convex combinations of data points: A·C + Λ.

    C are ``n_points`` activations, centred; the rows of A are non-negative and sum to 1; the rows of
    Λ, the relaxation, are at most ``relaxation`` times as long as the points are on average. Keeps
    atoms near the data and so alike between runs. Source: Fel et al. 2025 (arXiv 2502.12892), who
    clamp A at 0 and divide it by its sums after each step; here it is projected to the nearest
    admissible rows, and the length of an atom is left to the code.

    Args:
        n_points: data points that atoms are combined of.
        relaxation: how far an atom may leave their hull; 0 forbids it.
        seed: of the choice of points.
    """

    rows_are_free = False

    def __init__(self, n_points: int | None, relaxation: float | int, seed: int = 0) -> None:
        super().__init__()
        if n_points is None or n_points < 2:
            raise ValueError(
                f"ArchetypalAtoms: n_points must be at least 2, got {n_points}; atoms are "
                "combinations of data points."
            )
        if not relaxation >= 0:
            raise ValueError(f"ArchetypalAtoms: relaxation must be 0 or more, got {relaxation}.")
        self.n_points, self.relaxation, self.seed = n_points, relaxation, seed
        self.points: Tensor
        self.register_buffer("points", torch.empty(0))
        self.mixture = nn.Parameter(torch.empty(0))
        self.offset = nn.Parameter(torch.empty(0), requires_grad=relaxation > 0)

    @torch.no_grad()
    def attach(self, sae: SparseAutoencoder) -> None:
        d_sae, d_model = sae.W_dec.shape
        sae.W_dec.requires_grad_(False)
        self.points = torch.zeros(self.n_points, d_model)
        mixture = torch.zeros(d_sae, self.n_points)
        mixture[torch.arange(d_sae), torch.arange(d_sae) % self.n_points] = 1.0
        self.mixture.data = mixture
        self.offset.data = torch.zeros(d_sae, d_model)

    @torch.no_grad()
    def start_from(self, sae: SparseAutoencoder, pool_bar: Float[Tensor, "m d"]) -> None:
        """Raises ValueError when there are fewer activations than points are asked for."""
        if len(pool_bar) < self.n_points:
            raise ValueError(
                f"ArchetypalAtoms: n_points={self.n_points} needs as many activations, "
                f"got {len(pool_bar)}."
            )
        generator = torch.Generator().manual_seed(self.seed)
        chosen = torch.randperm(len(pool_bar), generator=generator)[: self.n_points]
        self.points.copy_(pool_bar[chosen.to(pool_bar.device)] - sae.b_dec)
        d_sae = len(self.mixture)
        if d_sae > self.n_points:
            # Rows past the points would repeat the first ones: each gets a second point besides.
            later = torch.arange(self.n_points, d_sae)
            share = torch.rand(len(later), generator=generator).to(self.mixture)
            apart = torch.randint(1, self.n_points, (len(later),), generator=generator)
            self.mixture[later] *= share[:, None]
            self.mixture[later, (later + apart) % self.n_points] = 1 - share
        sae.W_dec.copy_(self.atoms(sae))
        sae.W_enc.copy_(sae.W_dec)

    def atoms(self, sae: SparseAutoencoder) -> Float[Tensor, "s d"]:
        return F.normalize(self.mixture @ self.points + self.offset, dim=1)

    def after_backward(self, sae: SparseAutoencoder) -> None:
        pass

    @torch.no_grad()
    def after_step(self, sae: SparseAutoencoder) -> None:
        project_to_simplex_(self.mixture)
        limit = self.relaxation * torch.linalg.vector_norm(self.points, dim=1).mean()
        lengths = torch.linalg.vector_norm(self.offset, dim=1, keepdim=True)
        self.offset.mul_((limit / lengths.clamp_min(1e-12)).clamp_max(1.0))
        sae.W_dec.copy_(self.atoms(sae))

    def describe(self) -> dict[str, Any]:
        kind = type(self).__name__
        return {"kind": kind, "n_points": self.n_points, "relaxation": self.relaxation}
