"""Features planted in a backbone: known directions added to the residual stream after a block.

Which patches a feature fires on is drawn from the picture's own pixels, so the same picture has the
same features whenever it is run, in whatever batch, and nobody has to hand labels to the model.

Shape legend: b batch, t tokens, p patches, d width, m features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from saev.backbones.base import Backbone, BackboneOutput, Trunk

SPREAD = 0.2
"""Standard deviation of the logarithm of a feature's length from one firing to the next."""


@dataclass(frozen=True, eq=False)
class PlantedFeatures:
    """What is planted.

    Raises:
        ValueError: directions that are not of length 1, rates outside (0, 1), or a companion that
            cannot fire as often as its leader makes it.
    """

    directions: Float[Tensor, "m d"]
    """Of length 1."""
    rates: Float[np.ndarray, " m"]
    """Share of the patches on which each one fires."""
    lengths: Float[np.ndarray, " m"]
    """Median length of what is added, in raw units of the stream; 0 plants nothing."""
    leaders: Int[np.ndarray, " m"]
    """The feature that each one accompanies, −1 for none. A companion fires on ``together`` of its
    leader's patches, and elsewhere as often as its own rate still asks for."""
    together: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        norms = self.directions.norm(dim=1)
        if not torch.allclose(norms, torch.ones_like(norms), atol=1e-4):
            raise ValueError(
                f"directions have lengths {norms.min():.3f} to {norms.max():.3f}, not 1."
            )
        if not ((self.rates > 0) & (self.rates < 1)).all():
            raise ValueError(f"rates={self.rates.tolist()} must lie above 0 and below 1.")
        if (self.elsewhere < 0).any():
            raise ValueError("A companion is rarer than what it shares with its leader.")

    @classmethod
    def draw(
        cls,
        n_features: int,
        width: int,
        length: float,
        *,
        rates: tuple[float, float] = (0.001, 0.1),
        together: float = 0.5,
        seed: int = 0,
    ) -> PlantedFeatures:
        """Random directions, all of one length, with rates spaced evenly in their logarithm.

        Every odd feature accompanies the even one before it, which is the rarer of the two.
        """
        if n_features % 2:
            raise ValueError(f"n_features={n_features} must be even: features come in pairs.")
        generator = torch.Generator().manual_seed(20_000 + seed)
        raw = torch.randn(n_features, width, generator=generator)
        numbers = np.arange(n_features)
        return cls(
            F.normalize(raw, dim=1),
            np.geomspace(*rates, n_features),
            np.full(n_features, float(length)),
            np.where(numbers % 2 == 1, numbers - 1, -1),
            together,
            seed,
        )

    @property
    def elsewhere(self) -> Float[np.ndarray, " m"]:
        """Rate on the patches where the leader does not fire; the rate itself without a leader."""
        led = self.leaders >= 0
        leader = np.where(led, self.rates[self.leaders], 0.0)
        return (self.rates - self.together * leader) / (1 - leader)

    def longer(self, factor: float) -> PlantedFeatures:
        """The same firing with all lengths multiplied."""
        return replace(self, lengths=self.lengths * factor)

    def without(self, features: Sequence[int]) -> PlantedFeatures:
        """The same firing of all others, and some features not added."""
        lengths = self.lengths.copy()
        lengths[list(features)] = 0.0
        return replace(self, lengths=lengths)

    def strengths(
        self, images: Float[Tensor, "b 3 h w"], n_patches: int
    ) -> Float[np.ndarray, "b p m"]:
        """Multiple of its length with which each feature is added to each patch, 0 where it is off.

        Determined by the seed and each image's own numbers; lengths do not enter.
        """
        return np.stack([self._strengths_of(image, n_patches) for image in images])

    def _strengths_of(
        self, image: Float[Tensor, "3 h w"], n_patches: int
    ) -> Float[np.ndarray, "p m"]:
        content = image.detach().cpu().float().contiguous().numpy().tobytes()
        digest = hashlib.blake2b(content, digest_size=8).digest()
        rng = np.random.default_rng([self.seed, int.from_bytes(digest, "big")])
        chance = rng.random((n_patches, len(self.rates)))
        amount = np.exp(SPREAD * rng.standard_normal(chance.shape))
        on = chance < self.rates
        led = np.flatnonzero(self.leaders >= 0)
        rate = np.where(on[:, self.leaders[led]], self.together, self.elsewhere[led])
        on[:, led] = chance[:, led] < rate
        return np.where(on, amount, 0.0).astype(np.float32)

    def added(self, strengths: Float[np.ndarray, "*n m"]) -> Float[Tensor, "*n d"]:
        """What is added to the stream."""
        writes_md = torch.from_numpy(self.lengths).float()[:, None] * self.directions
        return torch.from_numpy(strengths) @ writes_md

    def sha256(self) -> str:
        """Of everything that is planted."""
        digest = hashlib.sha256(self.directions.contiguous().numpy().tobytes())
        for values in (self.rates, self.lengths, self.leaders):
            digest.update(np.ascontiguousarray(values).tobytes())
        digest.update(repr((self.together, self.seed)).encode())
        return digest.hexdigest()


class PlantedBlock(nn.Module):
    """A block with something added to what leaves it, set before each forward pass."""

    added: Float[Tensor, "b t d"] | None = None

    def __init__(self, block: nn.Module, batch_first: bool) -> None:
        super().__init__()
        self.block, self.batch_first = block, batch_first

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        x = self.block(*args, **kwargs)
        assert self.added is not None
        return x + (self.added if self.batch_first else self.added.transpose(0, 1)).to(x)


class PlantedTrunk(Trunk):
    """A trunk whose block ``layer`` adds the features of each image to its patches."""

    def __init__(self, trunk: Trunk, features: PlantedFeatures, layer: int) -> None:
        super().__init__()
        path = next(name for name, m in trunk.named_modules() if m is trunk.blocks[layer])
        self.planted = PlantedBlock(trunk.blocks[layer], trunk.batch_first)
        trunk.set_submodule(path, self.planted)
        self.inner, self.features = trunk, features
        self.width, self.grid, self.prefix = trunk.width, trunk.grid, trunk.prefix
        self.image_size, self.batch_first = trunk.image_size, trunk.batch_first
        self.has_classifier = trunk.has_classifier

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return self.inner.blocks

    def forward(self, images: Tensor) -> BackboneOutput:
        added_bpd = self.features.added(
            self.features.strengths(images, self.grid[0] * self.grid[1])
        )
        self.planted.added = F.pad(added_bpd, (0, 0, len(self.prefix), 0))
        return self.inner(images)


def plant(backbone: Backbone, features: PlantedFeatures, layer: int | None = None) -> Backbone:
    """A copy of the backbone that adds the features to the patches after block ``layer`` (None: its
    own), which is also where it is tapped.

    It is a backbone like any: what is recorded of it holds the features, and an edit after that
    block sees them. No name rebuilds it, so whoever opens a dictionary of it gives it again.

    Raises:
        ValueError: features of another width.
        UserError: no such block.
    """
    if features.directions.shape[1] != backbone.width:
        raise ValueError(
            f"features are {features.directions.shape[1]} wide and {backbone.name} {backbone.width}."
        )
    layer = backbone.resolve_layer(backbone.layer if layer is None else layer)
    content = f"{backbone.weights['sha256']} {layer} {features.sha256()}"
    return Backbone(
        PlantedTrunk(deepcopy(backbone.trunk), features, layer),
        family=backbone.family,
        name=backbone.name,
        layer=layer,
        transform=backbone.transform,
        weights={
            "kind": "object",
            "source": f"{backbone.name} with {len(features.rates)} features after block {layer}",
            "sha256": hashlib.sha256(content.encode()).hexdigest(),
        },
        spec={**backbone.spec, "weights": "object", "layer": layer},
        class_names=backbone.class_names,
        class_ids=backbone.class_ids,
    )
