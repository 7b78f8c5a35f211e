"""Controlled experiment on hypotheses: the Python call behind ``python -m saev.intervene``."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from datamodules.progress import progress_bars
from saev.backbones import Backbone
from saev.cli.results import chosen_device
from saev.defaults import defaults
from saev.heads import load_head
from saev.interop import open_sae
from saev.intervention.experiment import run_setting
from saev.intervention.hypothesis import Hypothesis, read_hypothesis
from saev.intervention.readout import OWN_HEADS, make_readout
from saev.intervention.report.files import write_registered
from saev.intervention.report.page import write_report
from saev.intervention.result import ExperimentResult
from saev.intervention.setting import Setting
from saev.loading import backbone_of, images_for
from saev.sae import SparseAutoencoder
from saev.sources import Images, open_images

INTERVENTION = defaults("intervene", "intervention")


def run_experiment(
    hypothesis: Hypothesis | Mapping[str, Any] | str | Path,
    sae: SparseAutoencoder | str | Path,
    head: str | Path,
    images: Images | None = None,
    *,
    backbone: Backbone | nn.Module | str | None = None,
    batch_size: int = INTERVENTION["batch_size"],
    max_rows: int = INTERVENTION["max_rows"],
    num_workers: int = INTERVENTION["num_workers"],
    placebo: int | None = None,
    out_dir: str | Path | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> ExperimentResult:
    """Edits latents in the running model, next to control arms, and judges each hypothesis.

    ``run_experiment({"concept": ["shape/star"]}, sae, "attributes").to_frame()``

    Args:
        hypothesis: what is fixed in advance; a mapping of the keys of a hypothesis file, or such a
            file, or its name in ``conf/hypotheses``.
        sae: a dictionary, its folder or its id on the hub.
        head: folder of a trained head, or "classifier", "zero_shot", "attributes".
        images: a source, its name in ``conf/images``, or a folder; None: the images the dictionary
            was trained on.
        backbone: the model it was trained on; None: the one it names.
        batch_size: images tapped and encoded together.
        max_rows: images in one forward pass from the tap on; a GPU takes hundreds.
        num_workers: processes that read images.
        placebo: hypotheses with latents that nobody chose, for the error rates of every test on this
            model, and for its power; None: as many as ``hypothesis`` says. 200 take several times as
            long as the experiment itself.
        out_dir: folder for ``registered.json``, written before a test image is read, the tables and
            the page ``index.html``; None: nothing is written.
        device: None: a GPU where there is one.
        progress: whether progress bars are shown.

    Raises:
        UserError: a hypothesis that is not allowed; a head, images or a dictionary of another model;
            too few images or draws for α after correction.
    """
    if isinstance(hypothesis, str | Path):
        hypothesis = read_hypothesis(hypothesis)[0]
    elif not isinstance(hypothesis, Hypothesis):
        hypothesis = Hypothesis.from_dict(hypothesis, "the hypothesis")
    if placebo is not None:
        hypothesis = replace(hypothesis, placebo=placebo)
    name = "the dictionary" if isinstance(sae, SparseAutoencoder) else str(sae)
    opened = open_sae(sae)
    own = str(head) in OWN_HEADS or not Path(head).is_dir()
    trained = None if own else load_head(head)
    model = backbone_of(opened, name, backbone=backbone, head=trained)
    source = images_for(opened, name, open_images(images) if images is not None else None)
    with progress_bars(progress):
        setting = Setting(
            hypothesis, opened, model, make_readout(str(head), model, source), source,
            batch_size, max_rows, num_workers, chosen_device(device),
        )  # fmt: skip
        folder = Path(out_dir) if out_dir is not None else None
        result = run_setting(
            setting, (lambda content, _: write_registered(content, folder)) if folder else None
        )
        if folder is not None:
            write_report(result, folder)
    return result
