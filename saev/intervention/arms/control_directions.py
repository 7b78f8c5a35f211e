"""Control directions in place of the dictionary's atoms: random ones, and what labels alone give.

Suffixes: r draws, c columns, d width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from saev.editing.directions import (
    covariance_directions,
    diffmean_direction,
    isotropic_directions,
    pca_direction,
    probe_directions,
)
from saev.intervention.choose.discovery import Discovery
from saev.intervention.hypothesis import Hypothesis
from saev.intervention.readout import Readout

COVARIANCE = "covariance_direction"
"""The arm of directions along which the data varies."""


@dataclass(frozen=True)
class ControlDirections:
    """Of one experiment; those of a column point towards its class."""

    random: dict[str, Float[Tensor, "r d"]]
    """``random_direction`` and ``covariance_direction``."""
    diffmean: dict[int, Float[Tensor, " d"]]
    pca: dict[int, Float[Tensor, " d"]]
    probe: Float[Tensor, "c d"]
    """A row per column."""


def control_directions(
    file: Hypothesis, discovery: Discovery, readout: Readout, columns: Sequence[int]
) -> ControlDirections:
    """All directions that the arms of some columns need, from discovery images alone."""
    covariance = discovery.covariance
    random = random_directions(covariance, file.n_directions, file.seed)
    diffmean = {
        c: diffmean_direction(discovery.class_mean[c], discovery.rest_mean[c]) for c in columns
    }
    pca = {}
    if "pca_direction" in file.baselines:
        pca = {c: pca_direction(covariance, towards) for c, towards in diffmean.items()}
    return ControlDirections(random, diffmean, pca, _probe_rows(discovery, readout))


def random_directions(
    covariance: Float[Tensor, "d d"], n: int, seed: int
) -> dict[str, Float[Tensor, "r d"]]:
    """So many of each kind, by the name of their arm."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "random_direction": isotropic_directions(n, len(covariance), generator),
        COVARIANCE: covariance_directions(n, covariance, generator),
    }


def _probe_rows(discovery: Discovery, readout: Readout) -> Float[Tensor, "c d"]:
    """A row per column, fitted within each group."""
    rows_cd = torch.zeros(len(readout.concepts), discovery.rows.shape[1])
    for g, (first, last) in enumerate(readout.groups.spans):
        labels = torch.from_numpy(discovery.labels[:, g])
        keep = labels >= 0
        rows_cd[first:last] = probe_directions(
            discovery.rows[keep], labels[keep] - first, last - first
        )
    return rows_cd
