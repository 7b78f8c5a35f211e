"""Page and files of hypotheses that were tested with several dictionaries."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from saev.files import write_atomically, write_table
from saev.intervention.judge.rungs import RUNGS
from saev.intervention.replication import Replicated, Replication
from saev.pages.notebook_figure import DPI, new_figure
from saev.pages.render import fill_template

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = Path(__file__).parent / "replication_page.html.j2"
HELD, MISSED = "#b5493a", "#9aa5ad"


def write_replication(found: Replication, folder: Path, pages: Sequence[str]) -> Path:
    """Leaves ``replication.json``, ``replication.csv`` and ``index.html``, which opens from disk.

    ``pages`` are the addresses of each dictionary's own page, relative to the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found.to_dict(), indent=2, ensure_ascii=False)
    write_atomically(folder / "replication.json", text + "\n")
    write_table(found.to_frame().round(5), folder / "replication.csv")
    (folder / "figures").mkdir(exist_ok=True)
    rungs = [name for name in RUNGS if any(name in one.rungs for one in found.concepts)]
    rung_intervals_figure(found.concepts, rungs).savefig(
        folder / "figures" / "replication.png", dpi=DPI
    )
    first = found.results[0]
    content = {
        "title": f"{len(found.results)} dictionaries, {len(found.concepts)} concepts",
        "subtitle": (
            f"{first.setting.backbone.name} after block {first.setting.layer}, head: "
            f"{first.setting.readout.name}, images: {first.setting.source.name}, "
            f"{first.test.n_images} for the test"
        ),
        "counts": {
            name: sum(one.rungs[name].holds for one in found.concepts if name in one.rungs)
            for name in rungs
        },
        "rungs": {name: RUNGS[name] for name in rungs},
        "concepts": [
            {
                "name": one.concept,
                "verdicts": one.verdicts,
                "rungs": [one.rungs.get(name) for name in rungs],
                "twins": _range(one.twins),
            }
            for one in found.concepts
        ],
        "pages": list(pages),
        "alpha": first.setting.file.alpha,
    }
    path = folder / "index.html"
    write_atomically(path, fill_template(TEMPLATE, content))
    return path


def _range(values: Sequence[float]) -> str:
    known = [value for value in values if np.isfinite(value)]
    if not known:
        return "–"
    low, high = min(known), max(known)
    return f"{low:.2f}" if high - low < 0.005 else f"{low:.2f} to {high:.2f}"


def rung_intervals_figure(concepts: Sequence[Replicated], rungs: Sequence[str]) -> "Figure":
    """A panel per rung, a row per concept: estimate and interval over dictionaries and images."""
    figure = new_figure(3.1 * len(rungs) + 1.2, 0.3 * len(concepts) + 1.1)
    panels = figure.subplots(1, len(rungs), sharey=True, squeeze=False)[0]
    for axis, name in zip(panels, rungs, strict=True):
        for row, one in enumerate(concepts):
            if (rung := one.rungs.get(name)) is None or not np.isfinite(rung.estimate):
                continue
            colour = HELD if rung.holds else MISSED
            axis.plot(rung.interval, [row, row], color=colour, linewidth=2)
            axis.scatter([rung.estimate], [row], color=colour, s=28, zorder=3)
        axis.axvline(0, color="#777777", linewidth=0.8)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("in favour →", fontsize=8, loc="right")
        axis.tick_params(labelsize=8)
        axis.locator_params(axis="x", nbins=5)
        axis.spines[["top", "right", "left"]].set_visible(False)
    panels[0].set_yticks(range(len(concepts)), [one.concept for one in concepts], fontsize=8)
    panels[0].invert_yaxis()
    return figure
