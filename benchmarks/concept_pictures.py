"""Pictures of docs/concepts.md, drawn from the demo's dictionary and one intervention on it.

    python -m saev.train
    python -m saev.intervene +experiment=intervene_scenes sae=SAE "concepts=[texture/stripes,shape/star,colour/pink]"
    python -m benchmarks.concept_pictures --sae SAE --report RUN/report

Writes docs/images/concepts_*.png, two of them as the report of the intervention drew them. The
other scenes are of set 5, which the demo's dictionary has not seen: the first half of them chooses
latents, the second half is shown.
Suffixes: b scenes, p patches, d dimensions, s latents.
"""

# ruff: noqa: E501  (a command kept whole)

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from datamodules.scenes import ATTRIBUTES, Scene, draw_scene, patch_labels
from saev.loading import open_dictionary
from saev.pages.figures import LatentRow, Tile, exemplar_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

N_SCENES, SCENES_SEED = 400, 5
CONCEPTS = (("texture", "stripes"), ("shape", "star"), ("colour", "red"))
N_ATOMS = 3
REPORTED = {
    "concepts_edit.png": "texture-stripes-examples.png",
    "concepts_arms.png": "texture-stripes-arms.png",
}
INK, MARK = "#31688e", "#ff2d6f"


class Seen:
    """Scenes with the activations and codes of their patches."""

    @torch.no_grad()
    def __init__(self, sae_dir: str) -> None:
        self.sae, self.backbone = open_dictionary(sae_dir)
        self.sae.eval()
        self.scenes = [draw_scene(SCENES_SEED, number) for number in range(N_SCENES)]
        self.grid = self.backbone.grid
        pixels = [self.backbone.transform(Image.fromarray(s.image)) for s in self.scenes]
        acts = self.backbone.tap(torch.stack(pixels), [self.backbone.layer])[self.backbone.layer]
        self.acts_bpd = acts[:, self.backbone.token_indices("patch")].float()
        self.z_bps = self.sae.encode(self.acts_bpd)

    def labels(self, scene: Scene) -> dict[str, np.ndarray]:
        return patch_labels(scene, scene.image.shape[0] // self.grid[0])

    def shows(self, attribute: str, value: str) -> torch.Tensor:
        """Which patches of which scenes are mostly of that value."""
        wanted = 1 + list(ATTRIBUTES[attribute]).index(value)
        return torch.tensor(np.stack([self.labels(s)[attribute] == wanted for s in self.scenes]))


def code_picture(seen: Seen) -> Figure:
    """A patch, its activation, its code, and the atoms that add up to the activation again."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    stripes_bp = seen.shows("texture", "stripes")
    b = int(stripes_bp.sum(1).argmax())
    p = int((seen.z_bps[b].sum(-1) * stripes_bp[b]).argmax())
    sae, z_s = seen.sae, seen.z_bps[b, p]
    x_bar, x_hat = (sae.normalize(seen.acts_bpd[b, p]), z_s @ sae.W_dec + sae.b_dec)
    top = z_s.topk(N_ATOMS).indices.tolist()
    parts = [z_s[s] * sae.W_dec[s] for s in top]
    rest = x_hat - sum(parts)

    figure = Figure(figsize=(9.2, 4.3), layout="constrained")
    rows = figure.subfigures(2, 1, height_ratios=[1.45, 1])
    image, activation, code = rows[0].subplots(1, 3, width_ratios=[1, 1.25, 2])
    image.imshow(seen.scenes[b].image)
    side = seen.scenes[b].image.shape[0] / seen.grid[0]
    row, column = divmod(p, seen.grid[1])
    image.add_patch(Rectangle((column * side - 0.5, row * side - 0.5), side, side, fill=False,
                              edgecolor=MARK, linewidth=2))  # fmt: skip
    image.set_axis_off()
    image.set_title("one patch of an image", fontsize=9)
    top_colour = float(x_bar.abs().quantile(0.95))
    _numbers(activation, x_bar, top_colour, f"its activation: {len(x_bar)} numbers")
    active = z_s.nonzero()[:, 0]
    code.vlines(active.numpy(), 0, z_s[active].numpy(), color=INK, linewidth=1.4)
    for s in top:
        code.annotate(str(s), (s, float(z_s[s])), ha="center", va="bottom", fontsize=8, color=MARK)
    code.set(xlim=(0, len(z_s)), ylim=(0, 1.18 * float(z_s.max())), xticks=[0, len(z_s)])
    code.set_title(f"its code: {len(active)} of {len(z_s):,} latents are active", fontsize=9)
    code.set_xlabel("number of the latent", fontsize=8, labelpad=-8)
    code.tick_params(labelsize=8)
    code.spines[["top", "right"]].set_visible(False)

    axes = rows[1].subplots(1, N_ATOMS + 2)
    for axis, s, part in zip(axes, top, parts, strict=False):
        _numbers(axis, part, top_colour, f"{float(z_s[s]):.1f} × atom {s}")
    _numbers(axes[N_ATOMS], rest, top_colour, f"the other {len(active) - N_ATOMS}, and the bias")
    _numbers(axes[-1], x_hat, top_colour, "reconstruction")
    for axis, sign in zip(axes[:-1], ["+", "+", "+", "="], strict=True):
        axis.text(1.09, 0.5, sign, transform=axis.transAxes, fontsize=15, ha="center", va="center")
    return figure


def _numbers(axis: Axes, values_d: torch.Tensor, top: float, title: str) -> None:
    """A vector as a block of coloured squares: red above 0, blue below, white at 0."""
    axis.imshow(values_d.detach().view(8, -1), cmap="RdBu_r", vmin=-top, vmax=top)
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=9)


def exemplar_picture(seen: Seen) -> Figure:
    """For three concepts the latent with the best F1, and the images on which it is strongest."""
    half, rows = N_SCENES // 2, []
    for attribute, value in CONCEPTS:
        shows_bp = seen.shows(attribute, value)
        fires_bps = seen.z_bps > 0
        s = int(_f1(fires_bps[:half], shows_bp[:half]).argmax())
        f1 = float(_f1(fires_bps[half:, :, s : s + 1], shows_bp[half:])[0])
        strongest = seen.z_bps[half:, :, s].amax(1).topk(6).indices + half
        tiles = [
            Tile(seen.scenes[b].image, seen.z_bps[b, :, s].view(seen.grid).numpy())
            for b in strongest.tolist()
        ]
        rows.append(LatentRow(s, f"concept: {value}\nF1 {f1:.2f}", tiles))
    return exemplar_figure(
        "Exemplars: the images on which a latent's code is largest",
        rows,
        "bright: patches where the latent is active; frame: its largest code, printed above",
    )


def _f1(fires_bps: torch.Tensor, shows_bp: torch.Tensor) -> torch.Tensor:
    both = (fires_bps & shows_bp[..., None]).sum((0, 1))
    return 2 * both / (fires_bps.sum((0, 1)) + shows_bp.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sae", required=True, help="sae/ of a run of `python -m saev.train`")
    parser.add_argument(
        "--report", type=Path, required=True, help="report/ of the run of saev.intervene"
    )
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    given = parser.parse_args()
    for name, of_report in REPORTED.items():
        shutil.copyfile(given.report / "figures" / of_report, given.out / name)
    seen = Seen(given.sae)
    code_picture(seen).savefig(given.out / "concepts_code.png", dpi=110)
    exemplar_picture(seen).savefig(given.out / "concepts_exemplars.png", dpi=90)


if __name__ == "__main__":
    main()
