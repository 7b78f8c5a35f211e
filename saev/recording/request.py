"""Recording request: everything a recording depends on, and the name that follows from it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datamodules.activations.format import DTYPES, FORMAT_VERSION
from datamodules.images.base import ImageSource
from saev.backbones.base import Backbone
from saev.errors import UserError

# where the weights lay and which block is the default say nothing about what they compute
NOT_IDENTITY = ("weights", "layer", "pretrained_tag", "model_config", "seed")


@dataclass(frozen=True)
class RecordingRequest:
    """Everything that determines the content of the tars; equal requests record once.

    Raises UserError for values that are not allowed.
    """

    backbone: dict[str, Any]
    """family, name, weights (kind, source, sha256), spec."""
    layers: tuple[int, ...]
    """0-based blocks; each gets a folder of its own."""
    images: dict[str, Any]
    """Fingerprint of the image source."""
    transform: dict[str, Any]
    tokens: str = "patch"
    """"patch", "class", "registers" or "all"."""
    n_per_image: int | None = None
    """Tokens drawn from each image at random; None for all of them."""
    dtype: str = "float16"
    images_per_shard: int = 256
    """At ViT-B width a tar of about 77 MB: small enough to lose, large enough to read in a row."""
    seed: int = 0
    """Of the order of images and the choice of tokens."""

    def __post_init__(self) -> None:
        if not self.layers:
            raise UserError("layers=() records nothing; name at least one block.")
        if self.dtype not in DTYPES:
            raise UserError(
                f"record.dtype={self.dtype!r} is not one of {', '.join(DTYPES)}; "
                "bfloat16 has no place in the npy format."
            )
        for name in ("n_per_image", "images_per_shard"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name}={value} must be at least 1.")

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        source: ImageSource,
        layers: Sequence[int] | None = None,
        **settings: Any,
    ) -> RecordingRequest:
        """For a loaded backbone and source; negative layers count from the end.

        ``settings`` are this class's fields from ``tokens`` on. Raises UserError for a layer, a
        kind of token or a number of tokens that the backbone does not have.
        """
        wanted = [backbone.layer] if layers is None else layers
        request = cls(
            backbone={
                "family": backbone.family,
                "name": backbone.name,
                "weights": dict(backbone.weights),
                "spec": dict(backbone.spec),
            },
            layers=tuple(sorted({backbone.resolve_layer(layer) for layer in wanted})),
            images=source.fingerprint(),
            transform=dict(backbone.transform_spec),
            **settings,
        )
        n_tokens = len(backbone.token_indices(request.tokens))
        if request.n_per_image is not None and request.n_per_image > n_tokens:
            raise UserError(
                f"tokens.n_per_image={request.n_per_image} asks for more than the {n_tokens} "
                f"{request.tokens} tokens that {backbone.name} has per image; lower it or use null."
            )
        return request

    def id(self, layer: int) -> str:
        """Name of the folder for a layer; the other layers of the request do not change it."""
        spec = self.backbone["spec"]
        content = {
            "format_version": FORMAT_VERSION,
            "family": self.backbone["family"],
            "name": self.backbone["name"],
            "weights": self.backbone["weights"]["sha256"],
            "spec": {key: spec[key] for key in spec if key not in NOT_IDENTITY},
            "layer": layer,
            "images": self.images,
            "transform": self.transform,
            "tokens": [self.tokens, self.n_per_image],
            "dtype": self.dtype,
            "order": [self.images_per_shard, self.seed],
        }
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        slug = re.sub(r"[^a-z0-9]+", "-", self.backbone["name"].lower()).strip("-")
        return f"{slug}-layer{layer}-{self.tokens}-{digest[:12]}"

    def choose_tokens(self, image_id: str, n_tokens: int) -> np.ndarray | None:
        """Which of an image's tokens to keep, sorted; the same for this image in any order."""
        if self.n_per_image is None or self.n_per_image == n_tokens:
            return None
        image = int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8], "big")
        generator = np.random.default_rng([self.seed, image])
        return np.sort(generator.choice(n_tokens, self.n_per_image, replace=False))
