"""Baseline comparison of one dictionary, for a command: fit, pass, verdicts, files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from datamodules.images import ImageSource
from saev.backbones import Backbone
from saev.cli.console import print_table
from saev.concepts.annotations import concepts_of
from saev.errors import UserError
from saev.evaluation.baselines.cells import (
    METRICS,
    PLAIN,
    Cell,
    ControlComparison,
    cell,
    frame,
    plain_cells,
    verdict,
    weights,
)
from saev.evaluation.baselines.concept_auroc import best_latent_auroc
from saev.evaluation.baselines.image_pass import ImagePass
from saev.evaluation.baselines.methods import BaselineSettings, Contender, contenders
from saev.evaluation.baselines.sums import ImageSums, monosemanticity
from saev.files import write_atomically, write_table
from saev.pages.render import fill_template
from saev.sae import SparseAutoencoder
from saev.tracking import Tracking

TEMPLATE = Path(__file__).parent / "page.html.j2"


class PassSettings(NamedTuple):
    """How images are run through."""

    fidelity: bool
    n_images: int | None
    batch_size: int
    num_workers: int
    device: torch.device | str


class Table(NamedTuple):
    """Everything the files and the page are made of."""

    contenders: list[Contender]
    cells: dict[str, dict[str, Cell]]
    """Metric → dictionary → value with its bootstrap."""
    verdicts: dict[str, ControlComparison]
    n_images: int
    concepts: str | None
    """What the concepts are, None where no image has a label."""


def baseline_table(
    sae: SparseAutoencoder, backbone: Backbone, source: ImageSource,
    concept_source: ImageSource | None, settings: BaselineSettings, run: PassSettings,
    folder: Path,
) -> Table:  # fmt: skip
    """Fits the baselines and scores everything on the held-out images of ``source``.

    Args:
        concept_source: images with labels for the concept scores; None: ``source`` where it has any.
        folder: baselines are left below it, a dictionary's folder each.

    Raises:
        UserError: no held-out images, or what ``contenders`` raises.
    """
    items = source.split("heldout")[: run.n_images]
    if not items:
        raise UserError(f"the image source {source.name!r} has no held-out images to score on")
    found = contenders(sae, backbone, source, settings, folder)
    sums, embedding_be, seen_b = _pass(found, source, items, run, "scoring baselines")
    weight_rb = weights(len(items), settings.n_bootstrap, settings.seed) * seen_b
    keys = [key for key in PLAIN if run.fidelity or key not in ("kl_recovered", "agreement")]
    cells = plain_cells(sums, weight_rb, keys)
    cells["monosemanticity"] = {
        name: cell(
            "monosemanticity", np.array([monosemanticity(one, embedding_be, w) for w in weight_rb])
        )
        for name, one in sums.items()
    }
    about = None
    concept_cells = _concepts(found, concept_source or source, settings, run)
    if concept_cells is not None:
        about, cells["concept_auroc"] = concept_cells
    controls = [one.name for one in found if one.is_random]
    verdicts = {
        metric.key: verdict(
            cells[metric.key]["sae"], {n: cells[metric.key][n] for n in controls}, metric.sign
        )
        for metric in METRICS if metric.key in cells
    }  # fmt: skip
    return Table(found, cells, verdicts, int(seen_b.sum()), about)


def _pass(
    found: Sequence[Contender], source: ImageSource, items: Sequence[Any], run: PassSettings,
    description: str,
) -> tuple[dict[str, ImageSums], Float[np.ndarray, "b e"], np.ndarray]:  # fmt: skip
    """Sums by name, the embedding by the dictionary's own model, and which images could be read.

    Dictionaries of one model share its pass; one of another model gets a pass of its own.
    """
    groups: dict[int, list[Contender]] = {}
    for one in found:
        groups.setdefault(id(one.backbone), []).append(one)
    sums: dict[str, ImageSums] = {}
    embedding_be, seen_b = None, np.ones(len(items), bool)
    for group in groups.values():
        one_pass = ImagePass(
            group, source, items, fidelity=run.fidelity, batch_size=run.batch_size,
            num_workers=run.num_workers, device=run.device,
        )  # fmt: skip
        for one, found_sums in zip(group, one_pass.run(description), strict=True):
            sums[one.name] = found_sums
        seen_b &= one_pass.seen_b
        if embedding_be is None:
            embedding_be = one_pass.embedding_be
    assert embedding_be is not None
    return {one.name: sums[one.name] for one in found}, embedding_be, seen_b


def _concepts(
    found: Sequence[Contender], source: ImageSource, settings: BaselineSettings, run: PassSettings
) -> tuple[str, dict[str, Cell]] | None:
    """What the concepts are, and the concept AUROC of every dictionary; None without labels."""
    if source.class_names is None and not hasattr(source, "attributes"):
        return None
    items = list(source.items)
    every = concepts_of(source, items, 0, found[0].backbone, seed=settings.seed)
    concepts = next((one for one in every if not one.on_patches), None)
    if concepts is None or "test" not in concepts.splits:
        return None
    sums, _, _ = _pass(found, source, items, run._replace(fidelity=False), "scoring concepts")
    n_test = concepts.splits.count("test")
    weight_rb = weights(n_test, settings.n_bootstrap, settings.seed)
    cells = {
        name: cell(
            "concept_auroc",
            best_latent_auroc(one.strongest_bs[concepts.images], concepts, weight_rb),
        )
        for name, one in sums.items()
    }
    about = (
        f"{len(concepts.names)} {concepts.kind} concepts of {concepts.source}, the latent chosen on "
        f"{len(concepts.splits) - n_test:,} images and scored on {n_test:,} others"
    )
    return about, cells


def report_table(table: Table, folder: Path, tracking: Tracking) -> dict[str, float]:
    """Writes ``baselines.csv``, ``baselines.parquet`` and ``index.html``; prints the table.

    Returns ``baselines/<dictionary>/<metric>`` and ``separates/<metric>``, 1 for yes and 0 for no.
    """
    names = [one.name for one in table.contenders]
    rows = frame(table.cells, table.verdicts, names)
    folder.mkdir(parents=True, exist_ok=True)
    for end in ("csv", "parquet"):
        write_table(rows, folder / f"baselines.{end}")
    shown = [metric for metric in METRICS if metric.key in table.cells]
    page = fill_template(TEMPLATE, _content(table, names, shown))
    write_atomically(folder / "index.html", page)
    tracking.log_artifact(folder, "baselines")
    print_table(
        f"Against baselines on {table.n_images:,} held-out images",
        ["", *names, "separates trained from random"],
        [
            [metric.title, *(number(table.cells[metric.key][n].value) for n in names),
             answer(table.verdicts[metric.key])]
            for metric in shown
        ],
    )  # fmt: skip
    flat = {
        f"baselines/{row['dictionary']}/{row['metric']}": float(row["value"])
        for row in rows.to_dict("records") if not np.isnan(row["value"])
    }  # fmt: skip
    flat |= {
        f"separates/{key}": float(one.separates)
        for key, one in table.verdicts.items() if one.separates is not None
    }  # fmt: skip
    return flat


def _content(table: Table, names: list[str], shown: Sequence[Any]) -> Mapping[str, Any]:
    dictionary = table.contenders[0].sae
    return {
        "subject": f"{table.contenders[0].backbone.name}, block {dictionary.cfg.layer}",
        "n_images": f"{table.n_images:,}", "contenders": [
            {"name": one.name, "about": one.about, "is_random": one.is_random,
             "d_sae": one.sae.cfg.d_sae} for one in table.contenders
        ],
        "concepts": table.concepts,
        "rows": [
            {
                "title": metric.title, "sign": metric.sign,
                "answer": answer(table.verdicts[metric.key]),
                "cells": [_shown(table, metric.key, name) for name in names],
            }
            for metric in shown
        ],
    }  # fmt: skip


def _shown(table: Table, key: str, name: str) -> dict[str, Any]:
    one = table.cells[key][name]
    low, high = one.interval
    shown = None if np.isnan(low) else f"{number(low)} to {number(high)}"
    beaten = table.verdicts[key].against.get(name)
    return {"value": number(one.value), "interval": shown, "beaten": beaten}


def answer(verdict: ControlComparison) -> str:
    """``yes``, ``no`` with the controls that do as well, or a dash."""
    if verdict.separates is None:
        return "–"
    if verdict.separates:
        return "yes"
    return "no: " + ", ".join(name for name, better in verdict.against.items() if not better)


def number(value: float) -> str:
    """Four significant digits; a dash where there is no value."""
    if np.isnan(value):
        return "–"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"
