"""open_clip's vision towers: the native VisionTransformer of CLIP, and timm trunks as in SigLIP."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from saev.backbones.base import BackboneOutput, Trunk
from saev.backbones.family import Parts, Request, check_image_size, seeded
from saev.backbones.open_clip_config import Model, resolve
from saev.backbones.timm_trunk import TimmTrunk
from saev.backbones.transform import ImageTransform
from saev.backbones.weights import load_exactly, state_dict_sha256
from saev.errors import UserError

VISUAL = "visual."
# towers of no consequence: a CLIP is built whole, and only one side of it is wanted
SMALLEST_TEXT = {"context_length": 1, "vocab_size": 1, "width": 64, "heads": 1, "layers": 1}
SMALLEST_VISION = {"image_size": 1, "patch_size": 1, "width": 64, "layers": 1}


class NativeTrunk(Trunk):
    """open_clip's own VisionTransformer: one class token, optional norm before the blocks."""

    prefix = ("class",)

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual: Any = visual
        self.width = int(self.visual.conv1.out_channels)
        self.grid = tuple(self.visual.grid_size)
        self.image_size = tuple(self.visual.image_size)
        self.batch_first = bool(self.visual.transformer.batch_first)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return tuple(self.visual.transformer.resblocks)

    def forward(self, images: Tensor) -> BackboneOutput:
        last: list[Tensor] = []
        handle = self.visual.transformer.register_forward_hook(lambda _m, _i, out: last.append(out))
        try:
            pooled = self.visual(images)
        finally:
            handle.remove()
        if isinstance(pooled, tuple):  # CoCa's tower also returns the tokens it pooled
            pooled = pooled[0]
        return BackboneOutput(self._normed(last[0]), pooled, None)

    def _normed(self, tokens: Tensor) -> Tensor:
        # with attention pooling or a norm after pooling, ln_post never meets the tokens
        if self.visual.attn_pool is not None or self.visual.final_ln_after_pool:
            return tokens
        return self.visual.ln_post(tokens)


class TimmTowerTrunk(TimmTrunk):
    """A timm transformer inside open_clip, with open_clip's projection after its pooling."""

    def __init__(self, visual: nn.Module, name: str) -> None:
        tower: Any = visual
        super().__init__(tower.trunk, name)
        self.head = tower.head
        self.has_classifier = False

    def forward(self, images: Tensor) -> BackboneOutput:
        tokens, pooled, _ = super().forward(images)
        return BackboneOutput(tokens, self.head(pooled), None)


class TextTower(nn.Module):
    """The other half of a CLIP, for zero-shot heads: embeds texts where images are embedded."""

    def __init__(self, clip: nn.Module, model: Model) -> None:
        super().__init__()
        self.clip: Any = clip.eval().requires_grad_(False)
        self.model = model

    @property
    def logit_scale(self) -> float:
        """Factor on the cosine; stored by CLIP as its logarithm."""
        return float(self.clip.logit_scale.exp())

    @property
    def logit_bias(self) -> float:
        """Added after the scale; SigLIP's, else 0."""
        return 0.0 if self.clip.logit_bias is None else float(self.clip.logit_bias)

    def class_weights(self, class_names: Sequence[str], templates: Sequence[Any]) -> Tensor:
        """Unit vectors (e, c): the mean over templates of the embedded prompts of each class."""
        import open_clip

        return open_clip.build_zero_shot_classifier(
            self.clip, self.model.tokenizer(), list(class_names), list(templates)
        )


def build(request: Request) -> Parts:
    """The vision tower filled with the requested weights, and what open_clip knows about it."""
    model = resolve(request)
    with seeded(request.seed):
        visual: Any = _clip(model.config | {"text_cfg": SMALLEST_TEXT}, custom_text=False).visual
    text_tower = None
    if model.tensors is None:
        weights = model.weights | {"sha256": state_dict_sha256(visual)}
        text_tower = partial(_text_tower, model, request.seed)
    else:
        tensors = model.tensors()
        _fill_visual(visual, tensors, model)
        weights = model.weights
        if any(not key.startswith(VISUAL) for key in tensors if "logit" not in key):
            text_tower = partial(_text_tower, model, request.seed)
    trunk = vision_trunk(visual, model.name, model.image_size)
    if "multimodal_cfg" in model.config or "hf_model_name" in model.config["text_cfg"]:
        text_tower = None  # CoCa's comes with a decoder, the other from the hub: no zero-shot there
    transform = ImageTransform(image_size=trunk.image_size, **model.preprocess)
    return Parts(trunk, transform, weights, text_tower=text_tower)


def _clip(config: dict[str, Any], custom_text: bool) -> nn.Module:
    import open_clip

    kind = open_clip.CustomTextCLIP if custom_text else open_clip.CLIP
    accepted = {k: v for k, v in config.items() if k not in ("custom_text", "multimodal_cfg")}
    try:
        return kind(**accepted)
    except TypeError as error:
        raise UserError(f"open_clip cannot build this model configuration: {error}.") from error


def vision_trunk(visual: Any, name: str, image_size: tuple[int, int] | None = None) -> Trunk:
    """What a vision tower is made of; raises UserError where it is no vision transformer."""
    if hasattr(visual, "trunk"):
        if image_size is not None:
            visual.set_input_size(image_size)
        trunk: Trunk = TimmTowerTrunk(visual, name)
        patch_size = visual.trunk.patch_embed.patch_size
    elif hasattr(visual, "transformer") and hasattr(visual, "conv1"):
        trunk, patch_size = NativeTrunk(visual), visual.patch_size
    else:
        raise UserError(
            f"open_clip {name} has a {type(visual).__name__} for its images, not a vision "
            "transformer: choose a ViT-* model."
        )
    check_image_size(trunk.image_size, tuple(patch_size), name)
    return trunk


def _fill_visual(visual: nn.Module, tensors: dict[str, Tensor], model: Model) -> None:
    from types import SimpleNamespace

    from open_clip.model import resize_pos_embed

    if model.image_size is not None:
        resize_pos_embed(tensors, SimpleNamespace(visual=visual))
    mine = {k.removeprefix(VISUAL): v for k, v in tensors.items() if k.startswith(VISUAL)}
    load_exactly(visual, mine, model.weights["source"], f"open_clip {model.name}")


def _text_tower(model: Model, seed: int) -> TextTower:
    custom = bool(model.config.get("custom_text", False))
    with seeded(seed):
        clip: Any = _clip(model.config | {"vision_cfg": SMALLEST_VISION}, custom_text=custom)
    clip.visual = nn.Identity()
    if model.tensors is not None:
        tensors = {k: v for k, v in model.tensors().items() if not k.startswith(VISUAL)}
        for name in ("logit_scale", "logit_bias"):  # a number in some files, a vector in others
            if name in tensors and getattr(clip, name, None) is not None:
                tensors[name] = tensors[name].reshape(getattr(clip, name).shape)
        load_exactly(clip, tensors, model.weights["source"], f"open_clip {model.name}")
    return TextTower(clip, model)
