"""The view as a PNG, for a slide or a note."""

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from saev.exploration.app.outcome_panel import ARMS, verdict_sentence

if TYPE_CHECKING:
    from saev.exploration.answers import EditOutcome
    from saev.exploration.explorer import Explorer
    from saev.exploration.view_state import ViewState


def edited_outcome(explorer: "Explorer", view: "ViewState") -> "EditOutcome":
    """What the edits of a view do to its picture; raises UserError as the explorer does."""
    assert view.key is not None, "the page edits no picture without one"
    patches, classes = view.edited_patches, view.classes or None
    return explorer.edit(view.key, view.edits, patches, classes, view.target)


def state_png(explorer: "Explorer", view: "ViewState") -> bytes:
    """The picture with marks and heat-map, and the probabilities before and after the edits."""
    from saev.pages.notebook_figure import DPI, new_figure

    outcome = edited_outcome(explorer, view) if view.edits else None
    figure = new_figure(9.0 if outcome else 4.2, 4.2)
    axes = figure.subplots(1, 2 if outcome else 1, squeeze=False)[0]
    _draw_picture(axes[0], explorer, view)
    if outcome:
        _draw_bars(axes[1], outcome)
        figure.suptitle(verdict_sentence(outcome), fontsize=8, wrap=True)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI)
    return file.getvalue()


def _draw_picture(axis: Any, explorer: "Explorer", view: "ViewState") -> None:
    from matplotlib.patches import Rectangle

    assert view.key is not None
    image = np.asarray(explorer.picture(view.key).convert("RGB"))
    height, width = image.shape[:2]
    gh, gw = explorer.grid
    extent = (0, width, height, 0)
    axis.imshow(image, extent=extent)
    if view.latent is not None:
        heat = np.maximum(explorer.heatmap(view.key, view.latent), 0)
        if heat.max() > 0:
            alpha = 0.67 * np.sqrt(heat / heat.max())
            axis.imshow(heat, extent=extent, cmap="inferno", alpha=alpha, interpolation="nearest")
        axis.set_title(f"latent {view.latent}", fontsize=9)
    for p in view.patches:
        corner = (p % gw * width / gw, p // gw * height / gh)
        axis.add_patch(
            Rectangle(
                corner, width / gw, height / gh, fill=False, edgecolor="#ff2d6f", linewidth=1.2
            )
        )
    axis.set_axis_off()


def _draw_bars(axis: Any, outcome: "EditOutcome") -> None:
    before = outcome.arms["before"].probabilities
    names = list(before)
    shown = {n: a for n, a in outcome.arms.items() if not a.absent and a.probabilities}
    thickness = 0.8 / max(len(shown), 1)
    for i, (arm, one) in enumerate(shown.items()):
        places = np.arange(len(names)) + (i - (len(shown) - 1) / 2) * thickness
        values = [one.probabilities.get(name, 0.0) for name in names]
        axis.barh(places, values, thickness, color=ARMS[arm][1], label=ARMS[arm][0])
    axis.set_yticks(range(len(names)), [name.replace("_", " ")[:30] for name in names], fontsize=7)
    axis.invert_yaxis()
    axis.set_xlabel("probability", fontsize=8)
    axis.tick_params(axis="x", labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=6, frameon=False)
