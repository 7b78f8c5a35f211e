"""What the micro ViT gets right, and the model card that says so."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from benchmarks.micro_vit.data import LabelledScenes
from saev.backbones.micro.micro_vit import (
    CARD,
    CONFIG,
    HEADS,
    PATCH_ATTRIBUTES,
    WEIGHTS,
    AttributeHeads,
    normalise,
)

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer


class Accuracies(NamedTuple):
    """Shares of correct predictions, 0–1."""

    image: dict[str, float]  # per attribute of the main object and the scene; "shape" is the class
    patch: dict[str, float]  # per PATCH_ATTRIBUTES, over all patches including those without object
    object_patch: dict[str, float]  # the same over patches that show an object


@torch.inference_mode()
def measure(
    vit: "VisionTransformer",
    heads: AttributeHeads,
    config: dict[str, Any],
    scenes: LabelledScenes,
    batch_size: int = 250,
) -> Accuracies:
    """Accuracy of every head on `scenes`; images and model may be on different devices."""
    device = next(vit.parameters()).device
    image_hits: dict[str, list[torch.Tensor]] = {name: [] for name in config["attributes"]}
    patch_hits: dict[str, list[torch.Tensor]] = {name: [] for name in PATCH_ATTRIBUTES}
    for start in range(0, len(scenes.images), batch_size):
        images, values, patches = (part[start : start + batch_size].to(device) for part in scenes)
        tokens_btd = vit.forward_features(normalise(images, config))
        image_logits, patch_logits = heads(tokens_btd)
        image_logits["shape"] = vit.forward_head(tokens_btd)
        for column, name in enumerate(config["attributes"]):
            image_hits[name].append(image_logits[name].argmax(-1) == values[:, column])
        for row, name in enumerate(PATCH_ATTRIBUTES):
            patch_hits[name].append(patch_logits[name].argmax(-1) == patches[:, row])
    shows_object = (scenes.patches[:, 0] > 0).to(device)
    hits = {name: torch.cat(parts) for name, parts in patch_hits.items()}
    return Accuracies(
        image={name: torch.cat(parts).float().mean().item() for name, parts in image_hits.items()},
        patch={name: hit.float().mean().item() for name, hit in hits.items()},
        object_patch={name: hit[shows_object].float().mean().item() for name, hit in hits.items()},
    )


def write_card(
    out_dir: Path,
    config: dict[str, Any],
    accuracies: Accuracies,
    *,
    command: str,
    hardware: str,
    training: dict[str, Any],
    n_eval: int,
    eval_seed: int,
) -> None:
    """Writes MODEL_CARD.md next to the files it describes, from measured values only."""
    args = config["model"]
    image_rows = "\n".join(
        f"| {name} | {len(config['attributes'][name])} | {accuracy:.3f} |"
        for name, accuracy in accuracies.image.items()
    )
    patch_rows = "\n".join(
        f"| {name} | {1 + len(config['attributes'][name])} | {accuracies.patch[name]:.3f} "
        f"| {accuracies.object_patch[name]:.3f} |"
        for name in PATCH_ATTRIBUTES
    )
    settings = "\n".join(f"- {name}: {value}" for name, value in training.items())
    sizes = ", ".join(
        f"`{name}` {(out_dir / name).stat().st_size:,} bytes" for name in (WEIGHTS, HEADS, CONFIG)
    )
    grid = args["img_size"] // args["patch_size"]
    architecture = (
        f"A timm `VisionTransformer`: {args['img_size']} px images, patches of "
        f"{args['patch_size']} px ({grid} × {grid}), width {args['embed_dim']}, {args['depth']} "
        f"blocks, {args['num_heads']} heads, a class token."
    )
    (out_dir / CARD).write_text(
        f"""# micro ViT

{architecture}
Trained from scratch on the procedural scenes of `datamodules/scenes`; no photograph and no other
model went into it.

Files: {sizes}.
Tensors are stored as float16, to be computed with in float32.

## Training

```
{command}
```

Hardware: {hardware}.

{settings}

The loss is the sum of cross-entropies: the class (shape of the main object) by the model's own
classifier, the other attributes by linear heads on the class token, and per patch the shape, colour
and texture of the object that fills most of it, or none, by linear heads on the patch tokens. All
heads read tokens after the final norm; those other than the classifier are in `{HEADS}`.

## Accuracy

On {n_eval:,} scenes of seed {eval_seed}, which training never drew, with the weights as stored.

| attribute (class token) | values | accuracy |
| --- | --- | --- |
{image_rows}

| attribute (patch tokens) | values | all patches | patches that show an object |
| --- | --- | --- | --- |
{patch_rows}

## Use and limits

Meant for demonstrations and tests of this project: a backbone that needs no download and whose
concepts are known to the pixel. Shape, colour and texture of every object, and size, place, number
and background, are explicit training targets, so its activations are cleaner than those of a model
trained on photographs: results on it show that a method works, not how well it works on real data.
It knows nothing outside the scenes; on photographs its outputs have no meaning. Size, column and
row refer to the main (largest) object only.
"""
    )
