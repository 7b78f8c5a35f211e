"""Baseline edits: a direction added to the residual stream, matched in norm to a reference edit.

Suffixes: b images, p chosen tokens, d width, n units, r draws.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saev.editing.tap_edit import TapEdit
from saev.editing.tokens import Encoded, Tokens, write


@dataclass(frozen=True)
class MatchedDirection:
    """Adds a unit direction, at every token as long as a reference edit's change there.

    Raises:
        ValueError: the direction is zero.
    """

    direction: Float[Tensor, " d"]
    reference: TapEdit

    def __post_init__(self) -> None:
        norm = float(self.direction.norm())
        if not norm > 0:
            raise ValueError("direction is zero: it cannot be given a length")
        object.__setattr__(self, "direction", self.direction / norm)

    def steer(
        self, encoded: Encoded, mask: Bool[Tensor, "b p"] | None = None
    ) -> Float[Tensor, "b t d"]:
        delta_bpd, changed_bp = self.reference.delta(encoded, mask)
        length_bp1 = delta_bpd.norm(dim=-1, keepdim=True)
        new_bpd = encoded.x + length_bp1 * self.direction.to(encoded.x)
        return write(encoded.acts, self.reference.tokens.positions, new_bpd, changed_bp)


@dataclass(frozen=True)
class RawUnit:
    """Sets one coordinate of the residual stream to a value: the edit without a dictionary."""

    unit: int
    value: float
    tokens: Tokens

    def steer(
        self, encoded: Encoded, mask: Bool[Tensor, "b p"] | None = None
    ) -> Float[Tensor, "b t d"]:
        new_bpd = encoded.x.clone()
        new_bpd[..., self.unit] = self.value
        changed_bp = encoded.normal if mask is None else mask & encoded.normal
        return write(encoded.acts, self.tokens.positions, new_bpd, changed_bp)


def isotropic_directions(n: int, width: int, generator: torch.Generator) -> Float[Tensor, "r d"]:
    """Uniform on the sphere."""
    return torch.nn.functional.normalize(torch.randn(n, width, generator=generator), dim=-1)


def covariance_directions(
    n: int, covariance: Float[Tensor, "d d"], generator: torch.Generator
) -> Float[Tensor, "r d"]:
    """Σ^½·g, normalised: they lie where the data varies, which isotropic ones mostly do not."""
    values_d, vectors_dd = torch.linalg.eigh(covariance.double())
    root_dd = vectors_dd * values_d.clamp(min=0).sqrt()
    noise_rd = torch.randn(n, len(covariance), generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(noise_rd @ root_dd.T, dim=-1).float()


def apart_from(
    directions: Float[Tensor, "r d"], other: Float[Tensor, " d"]
) -> Float[Tensor, "r d"]:
    """What the directions have at right angles to another one, normalised."""
    unit_d = torch.nn.functional.normalize(other.double(), dim=0)
    wide_rd = directions.double()
    rest_rd = wide_rd - torch.outer(wide_rd @ unit_d, unit_d)
    return torch.nn.functional.normalize(rest_rd, dim=-1).to(directions)


def diffmean_direction(
    inside: Float[Tensor, " d"], outside: Float[Tensor, " d"]
) -> Float[Tensor, " d"]:
    """Mean activation of a class minus the mean of the others (DiffMean)."""
    return inside - outside


def pca_direction(
    covariance: Float[Tensor, "d d"], towards: Float[Tensor, " d"], n_components: int = 32
) -> Float[Tensor, " d"]:
    """Of the first components the one along which a class differs most, in standard deviations;
    pointing towards the class."""
    values_d, vectors_dd = torch.linalg.eigh(covariance.double())
    top = vectors_dd[:, -n_components:]
    shift = (towards.double() @ top) / values_d[-n_components:].clamp(min=1e-12).sqrt()
    best = int(shift.abs().argmax())
    return (top[:, best] * shift[best].sign()).float()


def probe_directions(
    x: Float[Tensor, "n d"], labels: Int[Tensor, " n"], n_classes: int, ridge: float = 1e-2
) -> Float[Tensor, "c d"]:
    """Rows of a multinomial logistic regression on standardised activations, in raw units."""
    mean, std = x.mean(0), x.std(0) + 1e-6
    x_nd = (x - mean) / std
    weight = torch.zeros(n_classes, x.shape[1], requires_grad=True)
    bias = torch.zeros(n_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=80, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = x_nd @ weight.T + bias
        loss = torch.nn.functional.cross_entropy(logits, labels) + ridge * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach() / std
