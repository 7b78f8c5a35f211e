"""Figure of the trade-off: target change against other change, a line per arm.

Suffix: k doses.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from saev.intervention.judge.dose_curves import LEVELS
from saev.intervention.judge.mean_tradeoff import TradeoffPath
from saev.pages.notebook_figure import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLES = {
    "selected": ("selected latents", "#b5493a", "o"),
    "diffmean": ("DiffMean", "#31688e", "s"),
    "linear_probe": ("probe direction", "#4fa3c7", "D"),
    "untrained_same_length": ("untrained dictionaries", "#b8860b", "^"),
    "random_latents_same_length": ("random latents", "#777777", "v"),
}
"""Arm → its label, colour and marker."""
LABEL_WIDTH = 0.42
"""Of the axis, room for the label of a line that ends at its right edge."""
LINE_HEIGHT = 0.065
"""Of the axis, between two labels."""


def tradeoff_figure(
    paths: Mapping[str, TradeoffPath], doses: Sequence[float], target: str, other: str
) -> "Figure":
    """A line per arm from no edit over the doses, a point each, a ring at the tested one; 25, 50 and
    75 % of the target are faint lines, and each line has its name at its end.

    Args:
        doses: multiples of the tested edit, in increasing order.
        target, other: what the axes show.
    """
    figure = new_figure(5.8, 4.0)
    axis = figure.subplots()
    tested = list(doses).index(1.0)
    top = max(1.0, *(100 * float(np.max(path.other_k)) for path in paths.values()))
    ends = {}
    for arm, path in sorted(paths.items(), key=lambda item: item[0] == "selected"):
        _, colour, marker = STYLES[arm]
        x_k, y_k = (np.concatenate([[0.0], 100 * values]) for values in path)
        line_width = 2.2 if arm == "selected" else 1.3
        if len(doses) > 1:
            axis.plot(x_k, y_k, color=colour, linewidth=line_width, zorder=2)
        axis.scatter(
            x_k[1:],
            y_k[1:],
            s=16,
            color=colour,
            marker=marker,
            linewidths=0,
            zorder=3,
            clip_on=False,
        )
        axis.scatter(x_k[1 + tested], y_k[1 + tested], s=90, facecolors="none", edgecolors=colour,
                     linewidths=1.6, zorder=4)  # fmt: skip
        ends[arm] = (float(x_k[-1]), float(y_k[-1]))
    axis.set_xlim(0, 100 * (1 + LABEL_WIDTH))
    axis.set_ylim(0, 1.06 * top)
    for level in LEVELS:
        axis.axvline(100 * level, color="#dddddd", linewidth=0.8, zorder=0)
    _label_ends(axis, ends)
    axis.set_xticks([0, 25, 50, 75, 100])
    axis.spines["bottom"].set_bounds(0, 100)
    axis.set_xlabel(target, fontsize=10, loc="left")
    axis.set_ylabel(other, fontsize=10)
    axis.tick_params(labelsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def _label_ends(axis: "Axes", ends: Mapping[str, tuple[float, float]]) -> None:
    """Names right of where lines end, one above the other where they would meet."""
    top = axis.get_ylim()[1]
    placed: list[tuple[float, float]] = []
    for arm, (x, y) in sorted(ends.items(), key=lambda item: item[1][1]):
        name, colour, _ = STYLES[arm]
        at = 3.5 + (x if x < 60 else 100)  # of lines that end far to the right all in one column
        near = [height for left, height in placed if abs(left - at) < 100 * LABEL_WIDTH]
        height = max([y, *(h + LINE_HEIGHT * top for h in near)])
        placed.append((at, height))
        axis.annotate(
            name, (x, y), (at, height), fontsize=10, color=colour, va="center",
            fontweight="bold" if arm == "selected" else "normal", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 0},
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6},
        )  # fmt: skip
