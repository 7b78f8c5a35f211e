"""Figure of the benchmark: every number of every dictionary with its interval, and its null."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saev.pages.notebook_figure import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAINED, RANDOM, FITTED = "#31688e", "#b5493a", "#8a919c"


@dataclass(frozen=True)
class Bar:
    """One number of one dictionary."""

    name: str
    value: float
    interval: tuple[float, float]
    null: float
    colour: str


@dataclass(frozen=True)
class BarPanel:
    """One of the seven."""

    title: str
    bars: Sequence[Bar]


def seven_figure(panels: Sequence[BarPanel]) -> "Figure":
    """A panel for each number: dots with 95 % intervals, a short line where chance lies."""
    n_columns = min(4, len(panels))
    n_rows = -(-len(panels) // n_columns)
    figure = new_figure(3.1 * n_columns, 2.3 * n_rows)
    axes = list(figure.subplots(n_rows, n_columns, squeeze=False).flat)
    for axis in axes:
        axis.set_axis_off()
    for axis, panel in zip(axes, panels, strict=False):
        _draw(axis, panel)
    return figure


def _draw(axis: "Axes", panel: BarPanel) -> None:
    axis.set_axis_on()
    for place, bar in enumerate(reversed(panel.bars)):
        axis.plot(bar.interval, (place, place), color=bar.colour, linewidth=2)
        axis.plot(bar.value, place, "o", color=bar.colour, markersize=6)
        axis.plot((bar.null, bar.null), (place - 0.32, place + 0.32), color="#1d2330", linewidth=1)
    axis.set_yticks(range(len(panel.bars)), [bar.name for bar in reversed(panel.bars)], fontsize=8)
    axis.set_ylim(-0.6, len(panel.bars) - 0.4)
    axis.tick_params(axis="x", labelsize=8)
    axis.locator_params(axis="x", nbins=4)
    axis.grid(axis="x", alpha=0.25)
    axis.set_title(panel.title, fontsize=9, loc="left")
