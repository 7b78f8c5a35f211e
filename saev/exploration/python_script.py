"""From an edit on a screen to a script with the public API that repeats it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from saev.editing.code_edits import CodeEdit
from saev.editing.edits import edit_to_dict

HEADER = '''"""Repeats an edit of the explorer and prints what the model says before and after."""

import torch
from PIL import Image

from datamodules.images import source_from_spec
from saev import Steering, edits
from saev.exploration.own_readout import readout_for, trained_head_of, typed_readout
from saev.interop import open_sae
from saev.intervention.judge.tally import predict
from saev.loading import backbone_of
'''


@dataclass(frozen=True)
class Scripted:
    """What a script needs to know beside the edits."""

    sae: str | None
    """As it was given; None: an object."""
    head: str | None
    source: Mapping[str, Any]
    """Spec of the image source."""
    image_id: str | None
    """None: an upload."""
    patches: tuple[int, ...]
    classes: tuple[str, ...]


def python_script(edits: Sequence[CodeEdit], largest: Float[np.ndarray, " s"], of: Scripted) -> str:
    """The script. Amounts are written as codes, so that it needs no images to measure a unit on."""
    sae = repr(of.sae) if of.sae is not None else '"DIR"  # the dictionary was given as an object'
    picture = (
        'picture = Image.open("picture.png").convert("RGB")  # the picture that was uploaded, upright'
        if of.image_id is None
        else f"item = next(item for item in source.items if item.image_id == {of.image_id!r})\n"
        "picture = source.load(item)"
    )
    readout = (
        f"readout = typed_readout(backbone.text_tower(), {of.classes!r})"
        if of.classes
        else "readout = readout_for(head, trained, backbone, source)"
    )
    lines = [f"    {line},\n" for edit in edits for line in _edit_lines(edit, largest)]
    mask = ""
    if any(edit.where.kind in ("mask", "off_mask") for edit in edits):
        mask = (
            "mask = torch.zeros(1, backbone.grid[0] * backbone.grid[1], dtype=torch.bool)\n"
            f"mask[0, {list(of.patches)}] = True\n"
        )
    masked = ", mask" if mask else ""
    return (
        f"{HEADER}\n"
        f"folder = {sae}\n"
        f"head = {of.head!r}\n"
        "sae = open_sae(folder)\n"
        "trained = trained_head_of(head)\n"
        "backbone = backbone_of(sae, folder, head=trained)\n"
        f'source = source_from_spec({dict(of.source)!r}, "this script")\n'
        f"{readout}\n"
        f"{picture}\n"
        "pixels = backbone.transform(picture)[None]\n"
        f"{mask}"
        f"steered = Steering.of(sae, backbone, [\n{''.join(lines)}])\n"
        "with torch.no_grad():\n"
        f'    outputs = {{"before": backbone(pixels), "after": steered(pixels{masked})}}\n'
        "probabilities = {\n"
        "    name: predict(readout.logits(output), readout.groups).probabilities[0]\n"
        "    for name, output in outputs.items()\n"
        "}\n"
        "for name, found in probabilities.items():\n"
        "    best = found.mean(0).topk(min(5, found.shape[1]))\n"
        "    shown = zip(best.indices.tolist(), best.values.tolist(), strict=True)\n"
        "    print(name, {readout.concepts[c]: round(p, 4) for c, p in shown})\n"
    )


def _edit_lines(edit: CodeEdit, largest: Float[np.ndarray, " s"]) -> list[str]:
    """A call of :mod:`saev.editing.edits` for each latent whose amount is another number of codes."""
    content = edit_to_dict(edit)
    kind, latents, where = content.pop("kind"), content.pop("latents"), content.pop("where")
    unit = content.pop("unit", None)
    place = "" if where == "all" else f", where={where!r}"
    if unit is None:  # no amount of its own
        amounts = "".join(f", {name}={value!r}" for name, value in content.items())
        return [f"edits.{kind}(latents={latents}{amounts}{place})"]
    codes = {"scale": "code", "low": "low_code", "high": "high_code"}
    lines = []
    for latent in latents:
        by = 1.0 if unit == "code" else float(largest[latent])
        amounts = "".join(f", {codes[name]}={value * by!r}" for name, value in content.items())
        lines.append(f"edits.{kind}(latent={latent}{amounts}{place})")
    return lines
