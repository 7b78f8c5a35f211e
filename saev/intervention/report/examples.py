"""Example images before and after an edit, and the share of edited tokens inside the data.

Suffixes: b images, p patches, u units, g groups, c columns.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import UInt8

from saev.backbones.transform import to_picture
from saev.editing.tap_edit import TapEdit
from saev.intervention.arms.runner import EncodedBatch
from saev.intervention.choose.proposals import Latents
from saev.intervention.judge.tally import Predictions, predict
from saev.intervention.judge.verdict import Verdict
from saev.intervention.report.figures import BarExample, MaskExample, bars_figure, masks_figure
from saev.intervention.result import ExperimentResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BEFORE, AFTER = "before", "after the edit"
N_EXAMPLES = 3
N_BARS = 5
N_IMAGES_INSIDE = 16
"""Test images over which the share of edited tokens inside the data is taken."""


@torch.no_grad()
def inside_data(outcome: ExperimentResult, latents: Latents, dose: float) -> float:
    """Share of edited tokens whose norm is at most the 99th percentile of the discovery tokens'."""
    runner = outcome.runner
    images = np.arange(min(N_IMAGES_INSIDE, outcome.test.n_images))
    encoded = runner.batch(images).encoded["sae"]
    delta, changed = outcome.plan.steering(latents, dose).delta(encoded)
    norms = (encoded.x + delta)[changed].norm(dim=-1)
    return float((norms <= outcome.discovery.norm_99).float().mean()) if len(norms) else 1.0


@torch.no_grad()
def examples_figure(outcome: ExperimentResult, v: Verdict) -> "Figure | None":
    """Test images that show the concept: for patches those with most of it, else the first."""
    runner = outcome.runner
    n_base = outcome.test.clean.n_base[:, outcome.setting.readout.column(v.concept)]
    n_base = np.where(outcome.images_of[v.concept], n_base, 0)
    images = np.argsort(-n_base, kind="stable")[:N_EXAMPLES]
    images = np.sort(images[n_base[images] > 0])
    if not len(images):
        return None
    batch = runner.batch(images)
    predictions = {
        BEFORE: _predict(outcome, batch, None),
        AFTER: _predict(
            outcome, batch, outcome.plan.steering(tuple(v.latents), outcome.setting.file.scale)
        ),
        "random latents" if len(v.latents) > 1 else "a random latent": _predict(
            outcome,
            batch,
            outcome.plan.random_steering(v.concept),
        ),
    }
    pictures = [_picture(outcome, int(i)) for i in images]
    if outcome.setting.readout.per == "patch":
        return _masks(outcome, v, images, pictures, predictions)
    return _bars(outcome, v, pictures, predictions)


def _predict(
    outcome: ExperimentResult, batch: EncodedBatch, steering: TapEdit | None
) -> Predictions:
    setting, encoded = outcome.setting, batch.encoded["sae"]
    acts = encoded.acts if steering is None else steering.steer(encoded)
    logits = setting.readout.of_acts(setting.backbone, acts, setting.layer)
    return predict(logits, setting.readout.groups)


def _picture(outcome: ExperimentResult, image: int) -> UInt8[np.ndarray, "h w 3"]:
    """As the model sees it."""
    backbone = outcome.setting.backbone
    pixels = backbone.transform(outcome.setting.source.load(outcome.test.items[image]))
    return to_picture(pixels, backbone.mean, backbone.std)


def _masks(
    outcome: ExperimentResult,
    v: Verdict,
    images: np.ndarray,
    pictures: list[np.ndarray],
    predictions: dict[str, Predictions],
) -> "Figure":
    readout, grid = outcome.setting.readout, outcome.setting.backbone.grid
    column = readout.column(v.concept)
    group = readout.groups.of(column)
    examples = [
        MaskExample(
            picture,
            outcome.test.labels[int(images[row]), :, group].view(grid).numpy(),
            {title: p.classes[row, :, group].cpu().view(grid).numpy() for title, p in predictions.items()},
            column,
        )
        for row, picture in enumerate(pictures)
    ]  # fmt: skip
    return masks_figure(examples, readout.concepts)


def _bars(
    outcome: ExperimentResult,
    v: Verdict,
    pictures: list[np.ndarray],
    predictions: dict[str, Predictions],
) -> "Figure":
    names = outcome.setting.readout.concepts
    examples = []
    for row, picture in enumerate(pictures):
        values = {title: p.probabilities[row, 0].cpu().numpy() for title, p in predictions.items()}
        peak = np.maximum(values[BEFORE], values[AFTER])
        shown = np.argsort(-peak, kind="stable")[:N_BARS]
        examples.append(
            BarExample(picture, [names[k] for k in shown], {t: p[shown] for t, p in values.items()})
        )
    return bars_figure(examples)
