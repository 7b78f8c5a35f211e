"""One edited layer of a steered model: a dictionary, edits of its codes, and their unit.

Suffixes: b images, h w pixels, g patches of the grid, p chosen tokens, s latents.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor, nn

from datamodules.images import ImageSource
from saev.backbones import Backbone
from saev.codes.largest_codes import largest_codes
from saev.editing.code_edits import CodeEdit, Swap
from saev.editing.edits import edit_from_dict, edit_to_dict
from saev.editing.tap_edit import TapEdit
from saev.editing.tokens import Tokens
from saev.errors import UserError
from saev.interop import open_sae
from saev.loading import check_belongs, images_for, rebuild_backbone
from saev.sae import SparseAutoencoder

log = logging.getLogger(__name__)

Pictures = Tensor | Image.Image | Sequence[Image.Image]
"""Images (b, 3, h, w) as ``backbone.transform`` gives them, or pictures still to be transformed."""

N_IMAGES = 200
"""Held-out images on which the largest codes are measured where nothing else is given."""
BATCH_SIZE = 32


class SteeredTap(nn.Module):
    """A dictionary and the edits of its codes, as a part of a steered model.

    Args:
        which: kinds of tokens that may be touched.
        largest: None where no edit needs it.
        largest_from: in words, where ``largest`` comes from.
    """

    def __init__(
        self, sae: SparseAutoencoder, edits: Sequence[CodeEdit], backbone: Backbone, *, layer: int,
        which: str | Sequence[str], largest: Float[Tensor, " s"] | None = None,
        largest_from: str | None = None, mode: str = "add",
    ) -> None:  # fmt: skip
        super().__init__()
        self.sae, self.edits = sae, tuple(edits)
        self.layer, self.mode, self.largest_from = backbone.resolve_layer(layer), mode, largest_from
        self.which = [which] if isinstance(which, str) else list(which)
        tokens = Tokens.of(backbone, self.which)
        self.largest: Tensor | None
        self.positions: Tensor
        self.patches: Tensor
        self.is_class: Tensor
        self.register_buffer("largest", largest)
        for name in ("positions", "patches", "is_class"):
            self.register_buffer(name, getattr(tokens, name))
        self.edit()  # refuses what does not go together

    def edit(self) -> TapEdit:
        """The function of the residual stream."""
        tokens = Tokens(self.positions, self.patches, self.is_class)
        return TapEdit(self.sae, self.edits, self.largest, tokens, self.mode)

    def to_dict(self) -> dict[str, Any]:
        """Everything but tensors, such that JSON can hold it."""
        return {
            "layer": self.layer,
            "tokens": self.which,
            "mode": self.mode,
            "edits": [edit_to_dict(edit) for edit in self.edits],
            "largest_from": self.largest_from,
        }

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that belong to :meth:`to_dict`, by name."""
        found = {} if self.largest is None else {"largest": self.largest}
        swaps = {n: edit for n, edit in enumerate(self.edits) if isinstance(edit, Swap)}
        return found | {f"edit{n}.source": swap.source for n, swap in swaps.items()}

    @classmethod
    def from_dict(
        cls, content: Mapping[str, Any], tensors: Mapping[str, Tensor], sae: SparseAutoencoder,
        backbone: Backbone,
    ) -> "SteeredTap":  # fmt: skip
        """The inverse of :meth:`to_dict` and :meth:`tensors`."""
        edits = []
        for n, edit in enumerate(content["edits"]):
            source = tensors.get(f"edit{n}.source")
            edits.append(edit_from_dict(edit, **({} if source is None else {"source": source})))
        return cls(
            sae, edits, backbone, layer=content["layer"], which=content["tokens"],
            mode=content["mode"], largest=tensors.get("largest"),
            largest_from=content["largest_from"],
        )  # fmt: skip

    def mask_of(self, mask: Bool[Tensor, "b g"] | None) -> Bool[Tensor, "b p"] | None:
        """A mask of patches for the chosen tokens; tokens without a patch are outside."""
        if mask is None:
            return None
        mask = mask.to(self.patches.device)
        return mask[:, self.patches.clamp(min=0)] & (self.patches >= 0)


def make_tap(
    sae: SparseAutoencoder | str | Path, backbone: str | Backbone | nn.Module,
    edits: CodeEdit | Sequence[CodeEdit], largest: Tensor | None, images: Any,
    which: str | Sequence[str] | None, layer: int | None, mode: str,
) -> tuple[Backbone, SteeredTap]:  # fmt: skip
    """The backbone, and a tap on it, from what :meth:`saev.steering.Steering.of` is given."""
    name = "the dictionary"
    if not isinstance(sae, SparseAutoencoder):
        name, sae = str(sae), open_sae(sae)
    if not isinstance(backbone, Backbone):
        made_from = sae.cfg.backbone
        backbone = rebuild_backbone(made_from["spec"] if made_from else None, backbone)
    check_belongs(sae, backbone)
    layer, which = _place(sae, name, backbone, layer, which)
    sae = sae.to(next(backbone.parameters()).device).eval()
    edits = [edits] if isinstance(edits, CodeEdit) else list(edits)
    build = partial(SteeredTap, sae, edits, backbone, layer=layer, which=which, mode=mode)
    if not any(edit.needs_largest for edit in edits):
        return backbone, build()
    words = "given"
    if largest is None:
        # a stand-in, so that latents and mode are checked before any image is read
        tokens = build(largest=torch.ones(sae.cfg.d_sae)).edit().tokens
        batches, words = _images_to_measure(sae, name, backbone, images)
        largest = largest_codes(sae, backbone, layer, tokens, batches)
        log.info("largest codes measured on %s", words)
    _check_largest(largest, edits, sae, words)
    return backbone, build(largest=largest.to(sae.W_enc.device), largest_from=words)


def _place(
    sae: SparseAutoencoder, name: str, backbone: Backbone, layer: int | None,
    which: str | Sequence[str] | None,
) -> tuple[int, str | Sequence[str]]:  # fmt: skip
    """Layer and kinds of tokens, as given or as the dictionary says."""
    own = sae.cfg.layer
    chosen = own if layer is None else layer
    if chosen is None:
        raise UserError(f"{name} does not say which layer it reads; give layer=…")
    place = backbone.resolve_layer(chosen)
    if own is not None and place != own:
        raise UserError(f"{name} reads layer {own}; layer={layer} is another, leave it out")
    if which is None and sae.cfg.tokens is None:
        raise UserError(
            f"{name} does not say which tokens it reads; give tokens='patch', or others"
        )
    return place, (sae.cfg.tokens or {})["which"] if which is None else which


def _check_largest(
    largest: Tensor, edits: Sequence[CodeEdit], sae: SparseAutoencoder, words: str
) -> None:
    if largest.shape != (sae.cfg.d_sae,):
        raise ValueError(
            f"largest is {tuple(largest.shape)}; it must have one code for each of the "
            f"{sae.cfg.d_sae} latents"
        )
    for edit in edits:
        for latent in edit.latents:
            if edit.needs_largest and not largest[latent] > 0:
                raise UserError(
                    f"latent {latent} never fires there (largest codes: {words}), so a multiple of "
                    "its largest code is nothing; give images=… where it fires, or a code=…"
                )


def _images_to_measure(
    sae: SparseAutoencoder, name: str, backbone: Backbone, images: Any
) -> tuple[Iterator[Tensor], str]:
    """Batches of pixels, and in words which images they are."""
    if images is not None and not isinstance(images, ImageSource):
        pixels = pixels_of(images, backbone)
        return iter(pixels.split(BATCH_SIZE)), f"{len(pixels)} images given"
    if images is None and sae.cfg.images is None:
        raise UserError(
            f"{name} does not say which images it was trained on, and amounts are multiples of the "
            "largest codes on some: give images=… or largest=…, or amounts as code=…"
        )
    source = images_for(sae, name, None) if images is None else images
    items = source.split("heldout")[:N_IMAGES]
    if not items:
        raise UserError(f"{source.name!r} has no held-out images; give images=… or largest=…")

    def batches() -> Iterator[Tensor]:
        for first in range(0, len(items), BATCH_SIZE):
            loaded = [source.load_or_skip(item) for item in items[first : first + BATCH_SIZE]]
            if whole := [picture for picture in loaded if picture is not None]:
                yield pixels_of(whole, backbone)

    return batches(), f"{len(items)} held-out images of {source.name}"


def pixels_of(images: Pictures, backbone: Backbone) -> Float[Tensor, "b 3 h w"]:
    """What the backbone takes, on its device."""
    if isinstance(images, Image.Image):
        images = [images]
    if not isinstance(images, Tensor):
        images = torch.stack([backbone.transform(picture) for picture in images])
    if not images.is_floating_point():
        raise ValueError(
            f"images are {images.dtype}; give them as backbone.transform makes them, or as pictures "
            "of PIL"
        )
    return images.view(-1, *images.shape[-3:]).to(next(backbone.parameters()).device)
