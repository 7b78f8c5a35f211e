"""Contract of a backbone, behind which every frozen vision transformer is reached.

Shape legend: b batch, t tokens (prefix tokens, then patches row-major), d width, e pooled
embedding, c classes, h w image height and width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from saev.backbones.transform import ImageTransform
from saev.errors import UserError

if TYPE_CHECKING:
    from saev.backbones.taps import Edit

TOKEN_KINDS = ("patch", "class", "registers", "all")


class BackboneOutput(NamedTuple):
    """What a forward pass ends in."""

    tokens: Float[Tensor, "b t d"]
    """Final tokens after the final norm (models that normalise after pooling: before it)."""
    pooled: Float[Tensor, "b e"]
    """Pooled embedding; for CLIP and SigLIP the projected image embedding, not normalised."""
    logits: Float[Tensor, "b c"] | None
    """Of the model's own classifier, None where it has none."""


class Trunk(nn.Module):
    """What a family has to say about a built model; the contract is made of these facts."""

    width: int
    grid: tuple[int, int]
    """Patches down and across."""
    prefix: tuple[str, ...]
    """Names of the tokens before the patches: "class", "distillation", "register"."""
    image_size: tuple[int, int]
    batch_first: bool = True
    """False where the blocks see (t, b, d)."""
    has_classifier: bool = False
    """Whether ``forward`` gives logits."""

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The residual blocks in order."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> BackboneOutput:
        raise NotImplementedError


class Backbone(nn.Module):
    """A frozen vision transformer with its residual stream open for reading and writing.

    Always in eval mode; parameters take no gradient, though gradients flow through to edits.
    ``layer`` is the block whose output is the default tap. Tap and edit are the same point, so
    ``forward(images, {layer: lambda x: x})`` equals ``forward(images)`` to the last bit.
    """

    def __init__(
        self,
        trunk: Trunk,
        *,
        family: str,
        name: str,
        layer: int,
        transform: ImageTransform,
        weights: dict[str, str],
        spec: dict[str, Any],
        class_names: list[str] | None = None,
        class_ids: list[str] | None = None,
        text_tower: Callable[[], Any] | None = None,
    ) -> None:
        super().__init__()
        self.trunk = trunk.eval().requires_grad_(False)
        self.family, self.name = family, name
        self.width, self.grid, self.image_size = trunk.width, trunk.grid, trunk.image_size
        self.n_blocks, self.n_prefix = len(trunk.blocks), len(trunk.prefix)
        self.layer = self.resolve_layer(layer)
        self.token_names = [*trunk.prefix, *["patch"] * (self.grid[0] * self.grid[1])]
        self.transform, self.transform_spec = transform, transform.spec()
        self.mean, self.std = transform.mean, transform.std
        self.interpolation = transform.interpolation
        # by name: open_clip and timm each have a class of their own for x · sigmoid(1.702 x)
        self.quick_gelu = any(type(m).__name__ == "QuickGELU" for m in trunk.modules())
        self.weights, self.spec = weights, spec
        self.class_names, self.class_ids = class_names, class_ids
        self._text_tower = text_tower

    @property
    def n_tokens(self) -> int:
        """Length of the token axis."""
        return len(self.token_names)

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters; images are cast to it."""
        return next(self.trunk.parameters()).dtype

    @property
    def has_classifier(self) -> bool:
        """Whether the model has a classifier of its own, so that ``forward`` gives logits."""
        return self.trunk.has_classifier

    @property
    def has_text(self) -> bool:
        """Whether a text tower belongs to these weights."""
        return self._text_tower is not None

    def text_tower(self) -> Any:
        """The text tower (open_clip), built and filled on each call: recording never needs it."""
        if self._text_tower is None:
            raise UserError(
                f"{self.family} {self.name} with these weights has no text tower; "
                "use a head that needs none."
            )
        return self._text_tower()

    def train(self, mode: bool = True) -> Backbone:
        """Frozen: a surrounding module's ``train()`` does not reach the model."""
        return super().train(False)

    def resolve_layer(self, layer: int) -> int:
        """Block index counted from 0; raises UserError when there is no such block."""
        if not -self.n_blocks <= layer < self.n_blocks:
            raise UserError(
                f"layer={layer} is out of range: {self.family} {self.name} has {self.n_blocks} "
                f"blocks, so backbone.layer goes from 0 to {self.n_blocks - 1}, "
                f"or from -{self.n_blocks} to -1 counted from the end."
            )
        return layer % self.n_blocks

    def forward(
        self, images: Float[Tensor, "b 3 h w"], edits: Mapping[int, Edit] | None = None
    ) -> BackboneOutput:
        """The model's own forward pass, with the tokens after some blocks replaced.

        ``edits`` maps a block (negative: from the end) to a function on all tokens after it.
        """
        images = self._checked(images)
        if not edits:
            return self.trunk(images)
        from saev.backbones.taps import hooked

        hooks = {self.resolve_layer(layer): edit for layer, edit in edits.items()}
        if len(hooks) < len(edits):
            raise ValueError(f"edits={list(edits)} names one block twice.")
        with hooked(self.trunk.blocks, hooks, self.trunk.batch_first):
            return self.trunk(images)

    def tap(
        self, images: Float[Tensor, "b 3 h w"], layers: Sequence[int] | None = None
    ) -> dict[int, Float[Tensor, "b t d"]]:
        """The residual stream after each of these blocks (default: ``self.layer``), in one pass.

        Keys are the resolved block indices. Nothing after the last of them is computed.
        """
        from saev.backbones.taps import Enough, hooked

        images = self._checked(images)
        wanted = sorted(
            {self.resolve_layer(k) for k in ([self.layer] if layers is None else layers)}
        )
        if not wanted:
            raise ValueError("layers=[] taps nothing; name at least one block.")
        acts: dict[int, Tensor] = {}

        def keep(layer: int) -> Callable[[Tensor], None]:
            def hook(acts_btd: Tensor) -> None:
                acts[layer] = acts_btd
                if layer == wanted[-1]:
                    raise Enough

            return hook

        hooks = {layer: keep(layer) for layer in wanted}
        try:
            with hooked(self.trunk.blocks, hooks, self.trunk.batch_first):
                self.trunk(images)
        except Enough:
            pass
        return acts

    def resume(
        self, acts: Float[Tensor, "b t d"], layer: int, rows: Sequence[int] | None = None
    ) -> BackboneOutput:
        """The rest of the model after block ``layer``, from the tokens that leave it.

        Equal, to the last bit, to ``forward(images, {layer: lambda x: acts})`` without the cost of
        the blocks up to ``layer``. With ``rows``, positions on the token axis, only those tokens are
        sure to be right: the last block computes no others where it knows how to, and leaves NaN.
        """
        from saev.backbones.taps import resumed

        layer = self.resolve_layer(layer)
        if acts.shape[1:] != (self.n_tokens, self.width):
            raise ValueError(
                f"acts is {tuple(acts.shape)}; {self.name} has (batch, {self.n_tokens} tokens, "
                f"{self.width} wide)."
            )
        if not torch.is_autocast_enabled(acts.device.type):
            acts = acts.to(self.dtype)
        # the embedding is computed and thrown away, so one image's is enough
        images = torch.zeros(1, 3, *self.image_size, dtype=self.dtype, device=acts.device)
        last = None
        if rows is not None and layer < self.n_blocks - 1 and self.trunk.batch_first:
            from saev.backbones.last_block import for_rows

            last = for_rows(self.trunk.blocks[-1], rows)
        with resumed(self.trunk.blocks, layer, acts, self.trunk.batch_first, last):
            return self.trunk(images)

    def token_indices(self, which: str) -> Int64[Tensor, " n"]:
        """Positions on the token axis of the "patch", "class" or "registers" tokens, or "all"."""
        if which not in TOKEN_KINDS:
            raise UserError(f"tokens={which!r} is not one of {', '.join(TOKEN_KINDS)}.")
        if which == "all":
            return torch.arange(self.n_tokens)
        wanted = "register" if which == "registers" else which
        found = [i for i, name in enumerate(self.token_names) if name == wanted]
        if not found:
            counts = ", ".join(f"{n} {name}" for name, n in Counter(self.token_names).items())
            raise UserError(
                f"tokens={which!r}: {self.family} {self.name} has none (its tokens: {counts})."
            )
        return torch.tensor(found)

    def mask_transform(self, mask: np.ndarray) -> Int64[Tensor, "h w"]:
        """A uint8 class mask (h, w) resized and cropped as ``transform`` does with its picture."""
        return self.transform.mask(mask)

    def _checked(self, images: Tensor) -> Tensor:
        if tuple(images.shape[-2:]) != self.image_size:
            raise ValueError(
                f"images are {tuple(images.shape)}; {self.name} takes (batch, 3, "
                f"{self.image_size[0]}, {self.image_size[1]}), as backbone.transform gives them."
            )
        return images.to(self.dtype)
