"""Parts of a timm vision transformer, whichever family loads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from saev.backbones.base import BackboneOutput, Trunk
from saev.errors import UserError

# what the trunk needs: a plain stack of blocks between a patch grid and a head
NEEDED = ("blocks", "patch_embed", "num_prefix_tokens", "forward_features", "forward_head")


class TimmTrunk(Trunk):
    """A timm transformer seen through ``forward_features`` and ``forward_head``."""

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        if not all(hasattr(model, attribute) for attribute in NEEDED):
            raise UserError(
                f"timm {name} is a {type(model).__name__}, not a plain vision transformer with one "
                "stack of blocks: choose a vit_*, deit*, beit* or eva* model."
            )
        self.model: Any = model
        self.width = int(self.model.embed_dim)
        self.grid = tuple(self.model.patch_embed.grid_size)
        self.image_size = tuple(self.model.patch_embed.img_size)
        self.prefix = self._prefix(name)
        self.has_classifier = bool(self.model.num_classes) and not _is_projection(self.model)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return tuple(self.model.blocks)

    def forward(self, images: Tensor) -> BackboneOutput:
        tokens = self.model.forward_features(images)
        if not self.has_classifier:
            return BackboneOutput(tokens, self.model.forward_head(tokens), None)
        pooled = self.model.forward_head(tokens, pre_logits=True)
        return BackboneOutput(tokens, pooled, self.model.forward_head(tokens))

    def _prefix(self, name: str) -> tuple[str, ...]:
        named = ("class", "cls_token"), ("distillation", "dist_token"), ("register", "reg_token")
        prefix: list[str] = []
        for kind, attribute in named:
            token = getattr(self.model, attribute, None)
            if token is not None:
                prefix += [kind] * token.shape[1]
        if len(prefix) != self.model.num_prefix_tokens:
            raise UserError(
                f"timm {name} has {self.model.num_prefix_tokens} tokens before its patches, of "
                f"which only {prefix} are known here: choose another model."
            )
        return tuple(prefix)


def _is_projection(model: Any) -> bool:
    """CLIP towers in timm: the "classifier" of width 512 to 1,280 is the image projection."""
    config = model.pretrained_cfg if hasattr(model, "pretrained_cfg") else {}
    return "clip" in str(config.get("architecture", "")) and not imagenet_subset(model)


def imagenet_subset(model: Any) -> str | None:
    from timm.data import infer_imagenet_subset

    return infer_imagenet_subset(model) if model.num_classes else None
