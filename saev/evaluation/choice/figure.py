"""Pareto figure of a sweep, drawn without a display."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST_DEAD_SCALE = 0.02
"""Upper end of the colour scale at least: healthy sweeps would otherwise show noise as contrast."""
SMALLEST, LARGEST = 40.0, 420.0
"""Areas of a marker in points², for no dense latents and for the largest share."""
LEAST_FACTOR = 1.6
"""Of the largest L0 to the smallest, from which on the axis is logarithmic."""
LINE, LETTER, GAP = 0.045, 0.0105, 0.03
"""Height and width of a letter of a label, and its distance from the dot, as shares of the axes."""
LONGEST_LABEL = 36
"""Characters of a label; the table next to the figure has it whole."""


@dataclass(frozen=True)
class Dot:
    """One member of a sweep."""

    label: str
    l0: float
    explained_variance: float
    dead: float
    """Share of latents that never fire."""
    dense: float
    """Share of latents that fire on more than a tenth of the tokens."""
    on_front: bool
    pick: int | None
    """Number of the pick, from 1; None when not picked."""


def pareto_figure(dots: Sequence[Dot], title: str) -> "Figure":
    """Explained variance against L0: dead share as colour, dense share as size, the front as a line.

    Picks are ringed and numbered. L0 is on a logarithmic axis where all members fire and it varies.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 5.4), layout="constrained")
    axis = figure.subplots()
    front = sorted((dot for dot in dots if dot.on_front), key=lambda dot: dot.l0)
    axis.plot(
        [dot.l0 for dot in front], [dot.explained_variance for dot in front],
        color="#8a919c", linewidth=1.2, zorder=1, label="Pareto front",
    )  # fmt: skip
    largest = max([dot.dense for dot in dots] + [1e-9])
    areas = [SMALLEST + (LARGEST - SMALLEST) * dot.dense / largest for dot in dots]
    points = axis.scatter(
        [dot.l0 for dot in dots], [dot.explained_variance for dot in dots], s=areas,
        c=[100 * dot.dead for dot in dots], cmap="viridis", vmin=0, edgecolors="#1d2330",
        vmax=100 * max(LEAST_DEAD_SCALE, *(dot.dead for dot in dots)), linewidths=0.6, zorder=3,
    )  # fmt: skip
    figure.colorbar(points, ax=axis, label="dead latents, %", pad=0.01)
    for dot, area in zip(dots, areas, strict=True):
        if dot.pick is not None:
            axis.scatter(dot.l0, dot.explained_variance, s=area + 260, facecolors="none",
                         edgecolors="#b5493a", linewidths=1.8, zorder=4)  # fmt: skip
    _scale(axis, [dot.l0 for dot in dots])
    axis.set(xlabel="L0: latents active per token", ylabel="explained variance, held-out tokens")
    axis.set_title(title, fontsize=11, loc="left")
    axis.margins(0.14, 0.16)
    axis.grid(alpha=0.25)
    _legend(axis, largest)
    figure.draw_without_rendering()  # labels are placed by where the dots end up
    _annotate(axis, dots)
    return figure


def _scale(axis: "Axes", values: Sequence[float]) -> None:
    """Logarithmic with plain numbers where L0 spans a factor; linear where it hardly varies."""
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, ScalarFormatter

    if min(values) <= 0 or max(values) < LEAST_FACTOR * min(values):
        return
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_minor_formatter(NullFormatter())


def _annotate(axis: "Axes", dots: Sequence[Dot]) -> None:
    """A label next to each dot, towards the middle of the axes, lifted until it covers no other."""
    to_axes = axis.transData + axis.transAxes.inverted()
    placed: list[tuple[float, float, float]] = []  # left, right and height of the labels there
    for dot in sorted(dots, key=lambda dot: dot.explained_variance):
        x, y = to_axes.transform((dot.l0, dot.explained_variance))
        label = (
            dot.label if len(dot.label) <= LONGEST_LABEL else f"{dot.label[: LONGEST_LABEL - 1]}…"
        )
        text = label if dot.pick is None else f"{dot.pick}: {label}"
        side, start = ("left", x + GAP) if x < 0.5 else ("right", x - GAP - LETTER * len(text))
        end, place = start + LETTER * len(text), y
        while any(
            start < right and left < end and abs(place - height) < LINE
            for left, right, height in placed
        ):
            place += LINE / 4
        placed.append((start, end, place))
        axis.annotate(
            text, (dot.l0, dot.explained_variance), fontsize=8.5, zorder=5, va="center", ha=side,
            xytext=(start if side == "left" else end, place), textcoords="axes fraction",
            fontweight="bold" if dot.pick is not None else "normal",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.8},
            arrowprops={"arrowstyle": "-", "color": "#8a919c", "lw": 0.6} if place > y else None,
        )  # fmt: skip


def _legend(axis: "Axes", largest_dense: float) -> None:
    from matplotlib.lines import Line2D

    def mark(area: float, label: str, **style) -> Line2D:
        return Line2D([], [], linestyle="", marker="o", markersize=area**0.5, label=label,
                      markeredgecolor="#1d2330", markerfacecolor="#c9d3da", **style)  # fmt: skip

    front = Line2D([], [], color="#8a919c", label="Pareto front")
    ring = Line2D([], [], linestyle="", marker="o", markersize=15, markerfacecolor="none",
                  markeredgecolor="#b5493a", markeredgewidth=1.8, label="picked")  # fmt: skip
    sizes = [mark(SMALLEST, "0 % dense")]
    if largest_dense > 1e-9:
        sizes.append(mark(LARGEST, f"{100 * largest_dense:.2g} % dense"))
    axis.legend(handles=[front, ring, *sizes], fontsize=8, loc="lower right", labelspacing=1.1,
                framealpha=0.9)  # fmt: skip
