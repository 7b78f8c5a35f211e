"""Attribution of one latent's code on one image to its pixels and patches.

A latent fires at a token; attention may have brought there what lies elsewhere in the image. The maps
here say which pixels raise the latent, where a heat-map of codes says at which tokens it is raised.

Suffixes: g patches of the grid (gh × gw).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn

from saev.attribution.latent_probe import LatentProbe
from saev.attribution.order_curves import InsertionDeletion, PatchMixer
from saev.attribution.references import BASELINES, reference_image
from saev.attribution.relevance import ConservingGradients
from saev.backbones import Backbone
from saev.editing.tokens import Tokens
from saev.errors import UserError
from saev.interop import open_sae
from saev.loading import check_belongs, rebuild_backbone
from saev.sae import SparseAutoencoder

METHODS = ("integrated_gradients", "lrp")


@dataclass(frozen=True)
class Attribution:
    """Where on an image a latent's code comes from. Maps are on the CPU; positive raises the code."""

    pixels: Float[Tensor, "h w"]
    """Summed over the colour channels."""
    patches: Float[Tensor, "gh gw"]
    """Summed over the pixels of each patch."""
    codes: Float[Tensor, "gh gw"] | None
    """The heat-map beside it: the latent's code at each patch's token, 0 at tokens that the
    dictionary does not read. None where it reads no patches."""
    latent: int
    method: str
    baseline: str
    value: float
    """The summed pre-activation on the image; the summed code, where the latent fires at all of the
    tokens."""
    baseline_value: float
    """The same on the reference image."""
    gap: float
    """Σ pixels − (value − baseline_value). For integrated gradients the error of the integral, which
    more steps make smaller; for lrp what biases add and attention patterns would have added."""
    probe: LatentProbe = field(repr=False)
    image: Float[Tensor, "3 h w"] = field(repr=False)

    @property
    def order(self) -> Int[Tensor, " g"]:
        """Patches, row-major, the most attributed first."""
        return _descending(self.patches)

    @property
    def code_order(self) -> Int[Tensor, " g"] | None:
        """Patches, the largest code first. None without a heat-map."""
        return None if self.codes is None else _descending(self.codes)

    @property
    def peak_distance(self) -> int | None:
        """Patches, along the longer axis, between the largest patch of this map and of the codes: up
        to 1 they touch. None without a heat-map."""
        if self.codes is None:
            return None
        width = self.patches.shape[1]
        (y, x), (v, u) = (divmod(int(m.argmax()), width) for m in (self.patches, self.codes))
        return max(abs(y - v), abs(x - u))

    def insertion_deletion(
        self, n_steps: int = 14, *, n_random: int = 8, seed: int = 0, batch_size: int = 16
    ) -> InsertionDeletion:
        """The latent's code as patches, most attributed first, come into a blurred image or leave the
        whole one, against random orders and the order of the codes.

        Args:
            n_steps: of the curves; each moves the same number of patches.
            n_random: random orders.
            seed: of these orders.
            batch_size: images per forward pass.

        Raises:
            UserError: the latent does not fire at any of the tokens, or numbers below 1.
        """
        for name, value in (
            ("n_steps", n_steps),
            ("n_random", n_random),
            ("batch_size", batch_size),
        ):
            _check_positive(name, value)
        if not (self.probe.codes(self.image[None]) > 0).any():
            raise UserError(
                f"latent {self.latent} does not fire at these tokens, so there is no code to bring "
                "back; attribute it at tokens where it fires"
            )
        mixer, by_code = PatchMixer(self.probe, self.image, batch_size), self.code_order
        return InsertionDeletion(
            attribution=mixer.curves(self.order[None], n_steps),
            random=mixer.random_curves(n_random, n_steps, seed),
            heatmap=None if by_code is None else mixer.curves(by_code[None], n_steps),
        )


def _descending(map_g: Float[Tensor, "gh gw"]) -> Int[Tensor, " g"]:
    """Equal ones from the top left."""
    return map_g.flatten().argsort(descending=True, stable=True)


def attribute(
    sae: SparseAutoencoder | str | Path,
    backbone: Backbone | nn.Module | str,
    image: Float[Tensor, "3 h w"] | Image.Image,
    latent: int,
    *,
    method: str = "integrated_gradients",
    at: Sequence[int] | None = None,
    baseline: str = "blur",
    n_steps: int = 32,
    batch_size: int = 16,
) -> Attribution:
    """Which pixels of an image raise a latent, through the frozen model up to where it is read.

    The latent's pre-activation is attributed, which is its code wherever it fires: TopK's choice and
    the zero below a threshold have no slope.

    - "integrated_gradients" (Sundararajan et al. 2017, arXiv 1703.01365; captum's): the gradient,
      integrated on the straight line from a reference image to this one. Sums to the difference of
      the two pre-activations up to ``gap``.
    - "lrp": layer-wise relevance propagation with attention patterns and norms held constant
      (:mod:`saev.attribution.relevance`); one backward pass.

    Args:
        sae: the dictionary, its folder, or its id on the hub.
        backbone: the model it was trained on: a backbone, a name of ``conf/backbone``, or a model
            object.
        image: as ``backbone.transform`` makes it, or a picture still to be transformed.
        latent: which one.
        method: "integrated_gradients" or "lrp".
        at: patches, row-major, at whose tokens the latent is read; None: all tokens at which it
            fires on this image.
        baseline: the reference image: "blur", the image without detail smaller than a patch, or
            "mean", the mean colour everywhere.
        n_steps: points of the integral (Gauss–Legendre).
        batch_size: images per forward and backward pass, which bounds the memory.

    Raises:
        UserError: no such latent, method, baseline or patch; an image of another size; a latent that
            fires nowhere on the image; a dictionary of another model, or one that does not say which
            layer and tokens it reads.
    """
    if method not in METHODS or baseline not in BASELINES:
        allowed = f"method is one of {', '.join(METHODS)}, baseline one of {', '.join(BASELINES)}"
        raise UserError(f"method={method!r}, baseline={baseline!r}: {allowed}")
    _check_positive("n_steps", n_steps)
    _check_positive("batch_size", batch_size)
    sae, backbone, layer, tokens = _opened(sae, backbone)
    if not 0 <= latent < sae.cfg.d_sae:
        raise UserError(
            f"latent={latent} is out of range: the dictionary has {sae.cfg.d_sae} latents, from 0"
        )
    pixels = _pixels(image, backbone)
    every = LatentProbe(sae, backbone, latent, layer, tokens.positions)
    codes = every.codes(pixels[None])[0]
    chosen = _chosen_tokens(tokens, codes, latent, at)
    probe = LatentProbe(sae, backbone, latent, layer, tokens.positions[chosen])
    reference = reference_image(baseline, pixels, backbone.grid)
    with torch.enable_grad():
        if method == "lrp":
            relevance = _relevance(probe, pixels, reference)
        else:
            relevance = _integrated_gradients(probe, pixels, reference, n_steps, batch_size)
    with torch.no_grad():
        ends = probe.pre_activations(torch.stack([pixels, reference])).tolist()
    map_hw = relevance.detach().sum(0).float().cpu()
    return Attribution(
        pixels=map_hw, patches=_per_patch(map_hw, backbone.grid),
        codes=_heatmap(tokens, codes, backbone.grid), latent=latent, method=method,
        baseline=baseline, value=ends[0], baseline_value=ends[1],
        gap=float(map_hw.double().sum()) - (ends[0] - ends[1]), probe=probe, image=pixels,
    )  # fmt: skip


def _integrated_gradients(
    probe: LatentProbe, pixels: Tensor, reference: Tensor, n_steps: int, batch_size: int
) -> Tensor:
    from captum.attr import IntegratedGradients

    return IntegratedGradients(probe.pre_activations).attribute(
        pixels[None], reference[None], n_steps=n_steps, internal_batch_size=batch_size
    )[0]


def _relevance(probe: LatentProbe, pixels: Tensor, reference: Tensor) -> Tensor:
    """Relevance of what the image has and the reference has not."""
    from captum.attr import InputXGradient

    def from_difference(difference: Tensor) -> Tensor:
        return probe.pre_activations(reference + difference)

    difference = (pixels - reference)[None].requires_grad_(True)
    with ConservingGradients():
        return InputXGradient(from_difference).attribute(difference)[0]


def _opened(sae: Any, backbone: Any) -> tuple[SparseAutoencoder, Backbone, int, Tokens]:
    name = "the dictionary"
    if not isinstance(sae, SparseAutoencoder):
        name, sae = str(sae), open_sae(sae)
    if sae.cfg.layer is None or sae.cfg.tokens is None:
        raise UserError(f"{name} does not say which layer and tokens it reads; train it with saev")
    if not isinstance(backbone, Backbone):
        made_from = sae.cfg.backbone
        backbone = rebuild_backbone(made_from["spec"] if made_from else None, backbone)
    check_belongs(sae, backbone)
    device = next(backbone.parameters()).device
    tokens = Tokens.of(backbone, sae.cfg.tokens["which"]).to(device)
    return sae.to(device).eval(), backbone, backbone.resolve_layer(sae.cfg.layer), tokens


def _pixels(image: Tensor | Image.Image, backbone: Backbone) -> Float[Tensor, "3 h w"]:
    pixels = backbone.transform(image) if isinstance(image, Image.Image) else image
    if tuple(pixels.shape) != (3, *backbone.image_size) or not pixels.is_floating_point():
        raise UserError(
            f"image is {tuple(pixels.shape)}, {pixels.dtype}; {backbone.name} takes "
            f"{(3, *backbone.image_size)} as backbone.transform makes it, or a picture of PIL"
        )
    # its own precision, so that the integral and the maps are not rounded on the way
    return pixels.detach().to(next(backbone.parameters()).device)


def _chosen_tokens(
    tokens: Tokens, codes: Float[Tensor, " p"], latent: int, at: Sequence[int] | None
) -> Int[Tensor, " k"]:
    """Places among the dictionary's tokens."""
    if at is None:
        chosen = codes.nonzero()[:, 0]
        if not len(chosen):
            raise UserError(
                f"latent {latent} fires nowhere on this image; give at=…, patches at which to read it"
            )
        return chosen
    place = {patch: index for index, patch in enumerate(tokens.patches.tolist()) if patch >= 0}
    unknown = [patch for patch in at if patch not in place]
    if unknown or not len(at):
        raise UserError(
            f"at={list(at)}: give one or more patches that the dictionary reads, row-major"
            + (f", from 0 to {max(place)}" if place else "; it reads none")
        )
    return torch.tensor([place[patch] for patch in dict.fromkeys(at)], device=codes.device)


def _per_patch(map_hw: Float[Tensor, "h w"], grid: tuple[int, int]) -> Float[Tensor, "gh gw"]:
    (height, width), (rows, columns) = map_hw.shape, grid
    return map_hw.view(rows, height // rows, columns, width // columns).sum((1, 3))


def _heatmap(
    tokens: Tokens, codes: Float[Tensor, " p"], grid: tuple[int, int]
) -> Float[Tensor, "gh gw"] | None:
    on_patch = tokens.patches >= 0
    if not on_patch.any():
        return None
    flat = codes.new_zeros(grid[0] * grid[1]).index_put(
        (tokens.patches[on_patch],), codes[on_patch]
    )
    return flat.view(grid).float().cpu()


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise UserError(f"{name}={value}; give 1 or more")
