"""Starting values: atoms, encoder rows, decoder bias; the sparsity and the best length of codes.

Shapes: `n` pool rows, `d` d_model, `s` d_sae.
"""

import math
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saev.sae.config import SAEConfig

ENCODER_INITS = ("transpose", "best_gain", "unit_gain", "kaiming")
ATOM_INITS = ("random", "data")
BIAS_INITS = ("mean", "geometric_median", "zero")
FITTED_TOKENS = 2048
"""Activations that are looked at: two numbers need no more."""

FITTED_CODES = 2**23
"""Codes held at once meanwhile: 32 MB."""

CACHED_WEIGHTS = 2**17
"""Weights that a pass over rows looks at twice: half a megabyte."""


@torch.no_grad()
def initialize_(
    W_enc: Float[Tensor, "s d"],
    W_dec: Float[Tensor, "s d"],
    encoder: str = "transpose",
    generator: torch.Generator | None = None,
) -> None:
    """Fill both matrices in place: atoms are random unit vectors.

    Args:
        encoder: "transpose" copies the atoms (Gao et al. 2024, A.1: few latents die); "best_gain"
            as well, to be scaled when there are inputs (``best_gain``);
            "unit_gain" copies them times 2·d/s, with which ReLU codes of a random input sum up to
            its own length (plain copies overshoot s/(2·d) times); "kaiming" draws uniformly from
            ±√(6/d) (He et al. 2015).
        generator: source of randomness; None uses torch's global one.

    Raises:
        ValueError: an unknown ``encoder``.
    """
    if encoder not in ENCODER_INITS:
        raise ValueError(f"init.encoder must be one of {ENCODER_INITS}, got {encoder!r}.")
    W_dec.normal_(generator=generator)
    normalize_atoms_(W_dec)
    d_sae, d_model = W_dec.shape
    if encoder == "kaiming":
        bound = math.sqrt(6 / d_model)
        W_enc.uniform_(-bound, bound, generator=generator)
    else:
        W_enc.copy_(W_dec)
    if encoder == "unit_gain":
        W_enc.mul_(2 * d_model / d_sae)


@torch.no_grad()
def normalize_atoms_(W_dec: Float[Tensor, "s d"]) -> None:
    """Scale every row to norm 1 in place; a zero row stays zero."""
    for atoms in W_dec.split(_rows_at_once(W_dec)):
        norms = torch.linalg.vector_norm(atoms, dim=1, keepdim=True)
        atoms.div_(norms.clamp_(min=1e-12))


def _rows_at_once(W: Float[Tensor, "s d"]) -> int:
    """So that what two passes read stays in the cache in between; all rows on a GPU."""
    return len(W) if W.is_cuda else max(1, CACHED_WEIGHTS // W.shape[1])


@torch.no_grad()
def remove_parallel_gradient_(grad: Float[Tensor, "s d"], W_dec: Float[Tensor, "s d"]) -> None:
    """Take the part of each row of ``grad`` that points along its (unit) atom out, in place.

    That part only lengthens the atom, which normalisation undoes; left in, it would still feed
    Adam's moments. Source: Bricken et al. 2023, Towards Monosemanticity.
    """
    step = _rows_at_once(W_dec)
    for rows, atoms in zip(grad.split(step), W_dec.split(step), strict=True):
        along = torch.linalg.vecdot(rows, atoms).unsqueeze(1)
        rows.addcmul_(along, atoms, value=-1)


@torch.no_grad()
def point_atoms_at_data_(
    W_enc: Float[Tensor, "s d"],
    W_dec: Float[Tensor, "s d"],
    pool: Float[Tensor, "n d"],
    generator: torch.Generator | None = None,
) -> None:
    """Give every atom the direction of an input of the pool, in place, and its encoder row as well.

    Lengths stay. Inputs are taken without repeats as far as they go; what is more points between
    two, since two atoms that begin alike would learn alike.

    Args:
        pool: centred inputs in normalised units.
    """
    order = [torch.randperm(len(pool), generator=generator)]
    while sum(map(len, order)) < len(W_dec):
        order.append(torch.randperm(len(pool), generator=generator))
    chosen = torch.cat(order)[: len(W_dec)].to(pool.device)
    points = pool[chosen]
    n_more = len(W_dec) - len(pool)
    if n_more > 0 and len(pool) > 1:
        apart = torch.randint(1, len(pool), (n_more,), generator=generator).to(pool.device)
        others = pool[(chosen[len(pool) :] + apart) % len(pool)]
        share = torch.rand(n_more, 1, generator=generator).to(pool)
        points[len(pool) :] = torch.lerp(points[len(pool) :], others, share)
    directions = torch.nn.functional.normalize(points, dim=1)
    for matrix in (W_dec, W_enc):
        matrix.copy_(directions * torch.linalg.vector_norm(matrix, dim=1, keepdim=True))


def geometric_median(
    pool: Float[Tensor, "n d"], tolerance: float = 1e-5, n_iterations: int = 100
) -> Float[Tensor, " d"]:
    """The point with the least summed distance to the rows, by Weiszfeld's iteration from the mean.

    Unlike the mean it is not dragged away by a few very long rows.

    Args:
        tolerance: stop when the step is shorter than this times the mean distance to the rows.
    """
    point = pool.mean(0)
    for _ in range(n_iterations):
        distances = torch.linalg.vector_norm(pool - point, dim=1)
        typical = distances.mean()
        if typical == 0:
            break
        # A row at the current point would get infinite weight.
        weights = 1 / distances.clamp_min(1e-6 * typical)
        moved = (weights[:, None] * pool).sum(0) / weights.sum()
        step = torch.linalg.vector_norm(moved - point)
        point = moved
        if step <= tolerance * typical:
            break
    return point


def pool_center(pool: Float[Tensor, "n d"], how: str) -> Float[Tensor, " d"]:
    """Where the decoder bias starts, by one of ``BIAS_INITS``."""
    if how == "geometric_median":
        return geometric_median(pool)
    return pool.mean(0) if how == "mean" else pool.new_zeros(pool.shape[1])


@runtime_checkable
class Dictionary(Protocol):
    """What is asked of a ``SparseAutoencoder``."""

    cfg: SAEConfig

    @property
    def W_enc(self) -> Tensor: ...
    @property
    def W_dec(self) -> Tensor: ...
    @property
    def b_dec(self) -> Tensor: ...
    def encode(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n s"]: ...
    def normalize(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]: ...
    def is_normal(self, x: Float[Tensor, "n d"]) -> Bool[Tensor, " n"]: ...


def some_normal(sae: Dictionary, acts: Float[Tensor, "n d"] | None) -> Float[Tensor, "m d"] | None:
    """Evenly spaced rows among the normal ones, on the dictionary's device; None where there are none."""
    if acts is None:
        return None
    normal = acts[sae.is_normal(acts)].to(sae.W_enc.device)
    return normal[:: max(1, len(normal) // FITTED_TOKENS)] if len(normal) else None


def _in_parts(sae: Dictionary, acts: Float[Tensor, "n d"]) -> tuple[Tensor, ...]:
    return acts.split(max(1, FITTED_CODES // sae.cfg.d_sae))


@torch.no_grad()
def latents_per_token(sae: Dictionary, acts: Float[Tensor, "n d"] | None) -> int | None:
    """How many codes of a token are positive: k for ``topk``, else the rounded mean over ``acts``.

    Without activations ⌈k⌉, which may be None.
    """
    k = sae.cfg.k
    if sae.cfg.activation == "topk" or acts is None:
        return None if k is None else math.ceil(k)
    n_positive = sum(int((sae.encode(x) > 0).sum()) for x in _in_parts(sae, acts))
    return max(1, round(n_positive / len(acts)))


@torch.no_grad()
def best_gain(sae: Dictionary, acts: Float[Tensor, "n d"] | None) -> float:
    """The factor on all codes with the least squared error on activations.

    ⟨x̄ − b_dec, z·W_dec⟩ / ‖z·W_dec‖², both summed over them; 1 where nothing fires. Of a dictionary
    with W_skip what its linear path gives is taken from x̄ first.
    """
    along = power = 0.0
    W_skip = getattr(sae, "W_skip", None)  # dictionaries of others alone may have it
    for x in _in_parts(sae, acts) if acts is not None else ():
        written = sae.encode(x) @ sae.W_dec
        x_bar = sae.normalize(x)
        left = x_bar if W_skip is None else x_bar - x_bar @ W_skip.T
        along += float((written * (left - sae.b_dec)).sum())
        power += float(written.square().sum())
    return along / power if power > 0 else 1.0
