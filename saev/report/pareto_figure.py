"""The Pareto figure of a sweep, drawn without a display."""

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
LONGEST_LABEL = 36
"""Characters of a label; the table beside the figure has it whole."""


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

    Picks are ringed and numbered. L0 is on a logarithmic axis where all members fire.
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
    if all(dot.l0 > 0 for dot in dots):
        axis.set_xscale("log")
        _plain_ticks(axis, [dot.l0 for dot in dots])
    _annotate(axis, dots)
    axis.set(xlabel="L0: latents active per token", ylabel="explained variance, held-out tokens")
    axis.set_title(title, fontsize=11, loc="left")
    axis.margins(0.14, 0.16)
    axis.grid(alpha=0.25)
    _legend(axis, largest)
    return figure


def _plain_ticks(axis: "Axes", values: Sequence[float]) -> None:
    """Numbers instead of powers of ten, and enough of them where the range is short."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_formatter(NullFormatter())
    if max(values) < 4 * min(values):
        axis.xaxis.set_minor_formatter(ScalarFormatter())
        axis.xaxis.set_minor_locator(LogLocator(subs=(1.0, 1.5, 2, 2.5, 3, 4, 5, 6, 8)))


def _annotate(axis: "Axes", dots: Sequence[Dot]) -> None:
    """Labels beside the dots, to alternating sides where dots of a like L0 follow each other."""
    for n, dot in enumerate(sorted(dots, key=lambda dot: dot.explained_variance)):
        right = n % 2 == 0
        label = (
            dot.label if len(dot.label) <= LONGEST_LABEL else f"{dot.label[: LONGEST_LABEL - 1]}…"
        )
        text = label if dot.pick is None else f"{dot.pick}: {label}"
        axis.annotate(
            text, (dot.l0, dot.explained_variance), fontsize=8.5, zorder=5,
            xytext=(16 if right else -16, 0), textcoords="offset points",
            ha="left" if right else "right", va="center",
            fontweight="bold" if dot.pick is not None else "normal",
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
