"""Small members of every kind of vision transformer, with what the contract must discover."""

from dataclasses import dataclass, field
from typing import Any

from saev.backbones import Backbone, load_backbone


@dataclass(frozen=True)
class Member:
    family: str
    name: str
    image_size: int
    grid: tuple[int, int]
    prefix: tuple[str, ...]
    quick_gelu: bool = False
    classifier: bool = False
    model_kwargs: dict[str, Any] = field(default_factory=dict)

    def load(self, **kwargs: Any) -> Backbone:
        model_kwargs = kwargs.pop("model_kwargs", self.model_kwargs)
        return load_backbone(
            self.family,
            self.name,
            kwargs.pop("weights", "random"),
            image_size=self.image_size,
            model_kwargs=model_kwargs,
            **kwargs,
        )


SMALL = {"embed_dim": 64, "depth": 3, "num_heads": 2}
NATIVE = {
    "embed_dim": 32,
    "vision_cfg": {"width": 64, "layers": 3, "head_width": 32, "patch_size": 16},
    "text_cfg": {"width": 32, "heads": 1, "layers": 1},
}
TIMM_TOWER = {
    "embed_dim": 32,
    "vision_cfg": {
        "timm_model_name": "vit_tiny_patch16_224",
        "timm_pool": "avg",
        "timm_proj": "linear",
    },
    "text_cfg": {"width": 32, "heads": 1, "layers": 1, "vocab_size": 100},
}

ZOO = {
    "class_token": Member(
        "timm", "vit_tiny_patch16_224", 64, (4, 4), ("class",), classifier=True, model_kwargs=SMALL
    ),
    "class_and_registers": Member(
        "timm",
        "vit_small_patch14_reg4_dinov2",
        56,
        (4, 4),
        ("class", *["register"] * 4),
        model_kwargs=SMALL,
    ),
    "rope_and_registers": Member(
        "timm",
        "vit_small_patch16_dinov3",
        64,
        (4, 4),
        ("class", *["register"] * 4),
        model_kwargs=SMALL,
    ),
    "rope_per_block": Member(
        "timm",
        "vit_small_patch16_rope_mixed_224",
        64,
        (4, 4),
        ("class",),
        classifier=True,
        model_kwargs=SMALL,
    ),
    "eva": Member("timm", "eva02_tiny_patch14_224", 56, (4, 4), ("class",), model_kwargs=SMALL),
    "position_without_class": Member(
        "timm",
        "deit3_small_patch16_224",
        64,
        (4, 4),
        ("class",),
        classifier=True,
        model_kwargs=SMALL,
    ),
    "distillation_token": Member(
        "timm",
        "deit_tiny_distilled_patch16_224",
        64,
        (4, 4),
        ("class", "distillation"),
        classifier=True,
        model_kwargs=SMALL,
    ),
    "relative_position": Member(
        "timm", "beit_base_patch16_224", 64, (4, 4), ("class",), classifier=True, model_kwargs=SMALL
    ),
    "attention_pool": Member(
        "timm", "vit_base_patch16_siglip_224", 64, (4, 4), (), model_kwargs=SMALL
    ),
    "average_pool": Member(
        "timm",
        "vit_medium_patch16_gap_256",
        64,
        (4, 4),
        (),
        classifier=True,
        model_kwargs=SMALL,
    ),
    "timm_clip": Member(
        "timm",
        "vit_base_patch16_clip_quickgelu_224",
        64,
        (4, 4),
        ("class",),
        quick_gelu=True,
        model_kwargs=SMALL | {"num_classes": 32},
    ),
    "micro": Member("timm", "micro", 96, (12, 12), ("class",), classifier=True),
    "native": Member("open_clip", "ViT-B-16", 64, (4, 4), ("class",), model_kwargs=NATIVE),
    "native_quick_gelu": Member(
        "open_clip", "ViT-B-16-quickgelu", 64, (4, 4), ("class",), True, model_kwargs=NATIVE
    ),
    "native_attention_pool": Member(
        "open_clip", "coca_ViT-B-32", 64, (4, 4), ("class",), model_kwargs=NATIVE
    ),
    "timm_tower": Member(
        "open_clip", "ViT-B-16-SigLIP", 64, (4, 4), ("class",), model_kwargs=TIMM_TOWER
    ),
}
