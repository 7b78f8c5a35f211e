"""The micro ViT as files: a timm `VisionTransformer`, its description, its training heads.

Shapes: `b` batch, `t` tokens, `p` patches, `d` width, `c` classes of one head.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from saev.errors import UserError

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

MICRO_DIR = Path(__file__).parent
"""Folder of the weights that come with the package."""
WEIGHTS, CONFIG, HEADS = "weights.safetensors", "config.json", "attribute_heads.safetensors"
CARD = "MODEL_CARD.md"

PATCH_ATTRIBUTES = ("shape", "colour", "texture")
"""What a patch token must tell about the object under its patch; value 0 means no object."""


def micro_config(attributes: dict[str, list[str]], *, seed: int, n_scenes: int) -> dict[str, Any]:
    """Content of config.json; `attributes` names the values of every attribute to predict, and the
    model is trained on the first `n_scenes` scenes of set `seed`."""
    return {
        "model": {
            "img_size": 96,
            "patch_size": 8,
            "embed_dim": 128,
            "depth": 6,
            "num_heads": 4,
            "mlp_ratio": 4.0,
            "class_token": True,
            "global_pool": "token",
            "num_classes": len(attributes["shape"]),
        },
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "class_names": attributes["shape"],
        "attributes": attributes,
        "trained_on": {"scenes_seed": seed, "n_scenes": n_scenes},
    }


def was_trained_on(image_id: str, micro_dir: Path = MICRO_DIR) -> bool:
    """Whether the model learned from this image; ids of scenes are "scenes-SEED/INDEX"."""
    trained_on = json.loads((micro_dir / CONFIG).read_text())["trained_on"]
    set_name, _, index = image_id.partition("/")
    return set_name == f"scenes-{trained_on['scenes_seed']}" and int(index) < trained_on["n_scenes"]


def build_vit(config: dict[str, Any]) -> "VisionTransformer":
    """The timm model that a config.json describes, with random weights."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(**config["model"])


class AttributeHeads(nn.Module):
    """Linear read-outs that exist for training and for measuring what the tokens carry.

    One per attribute but the class on the class token, one per `PATCH_ATTRIBUTES` on each patch
    token, all after the final norm.
    """

    def __init__(self, width: int, attributes: dict[str, list[str]]) -> None:
        super().__init__()
        self.image = nn.ModuleDict(
            {
                name: nn.Linear(width, len(values))
                for name, values in attributes.items()
                if name != "shape"  # the model's own classifier
            }
        )
        self.patch = nn.ModuleDict(
            {name: nn.Linear(width, 1 + len(attributes[name])) for name in PATCH_ATTRIBUTES}
        )

    def forward(
        self, tokens_btd: Float[Tensor, "b t d"]
    ) -> tuple[dict[str, Float[Tensor, "b _"]], dict[str, Float[Tensor, "b p _"]]]:
        """Logits per attribute of the image, and of each patch, from tokens (class, patches …)."""
        class_bd, patches_bpd = tokens_btd[:, 0], tokens_btd[:, 1:]
        return (
            {name: head(class_bd) for name, head in self.image.items()},
            {name: head(patches_bpd) for name, head in self.patch.items()},
        )


def normalise(images: Tensor, config: dict[str, Any]) -> Float[Tensor, "b 3 h w"]:
    """From uint8 images to the model's input."""
    mean, std = (
        torch.tensor(config[name], device=images.device).view(3, 1, 1) for name in ("mean", "std")
    )
    return (images.float() / 255 - mean) / std


def save_micro(
    out_dir: Path, config: dict[str, Any], vit: "VisionTransformer", heads: AttributeHeads
) -> None:
    """Writes config, weights and heads into `out_dir`; tensors as float16 to halve the files."""
    out_dir.mkdir(parents=True, exist_ok=True)
    (out_dir / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    for file_name, module in ((WEIGHTS, vit), (HEADS, heads)):
        state = {k: v.detach().half().cpu().contiguous() for k, v in module.state_dict().items()}
        save_file(state, out_dir / file_name, metadata={"format": "pt"})


def load_micro(
    micro_dir: Path = MICRO_DIR,
) -> tuple[dict[str, Any], "VisionTransformer", AttributeHeads]:
    """Config, model and heads in float32 and eval mode; `UserError` when a file is missing."""
    for file_name in (CONFIG, WEIGHTS, HEADS):
        if not (micro_dir / file_name).is_file():
            raise UserError(
                f"{micro_dir / file_name} is missing; restore it or train it anew with "
                f"`python -m benchmarks.micro_vit.train --out {micro_dir}`."
            )
    config = json.loads((micro_dir / CONFIG).read_text())
    vit = build_vit(config)
    heads = AttributeHeads(config["model"]["embed_dim"], config["attributes"])
    vit.load_state_dict(load_file(micro_dir / WEIGHTS))
    heads.load_state_dict(load_file(micro_dir / HEADS))
    return config, vit.eval(), heads.eval()
