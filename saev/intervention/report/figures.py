"""Figures of a controlled experiment, drawn without a display."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from saev.pages.notebook_figure import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SELECTED, CONTROL, MARK = "#b5493a", "#31688e", "#777777"
LONGEST_NAME = 32


def plain_text(name: str) -> str:
    """A name as matplotlib draws it as it is: no mathematics between dollars, no label that it would
    leave out for an underscore, one line, and no longer than ``LONGEST_NAME``."""
    name = " ".join(name.split())
    name = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")


@dataclass(frozen=True)
class Curve:
    """A dose–response curve of one hypothesis."""

    doses: Sequence[float]
    effects: Sequence[float]
    random: Mapping[float, float]
    """Dose → mean effect of random latents, where they were run."""
    inside: Mapping[float, float]
    """Dose → share of edited tokens whose norm stays below the 99th percentile of the data."""
    tested: float


@dataclass(frozen=True)
class MaskExample:
    """One picture with a class per patch, true and predicted under several edits."""

    image: UInt8[np.ndarray, "h w 3"]
    truth: Int[np.ndarray, "gh gw"]
    """−1 where there is none."""
    predictions: Mapping[str, Int[np.ndarray, "gh gw"]]
    """Title → class; the first is the untouched model."""
    concept: int


@dataclass(frozen=True)
class BarExample:
    """One picture with class probabilities under several edits."""

    image: UInt8[np.ndarray, "h w 3"]
    names: Sequence[str]
    probabilities: Mapping[str, Float[np.ndarray, " c"]]
    """Title → probability of each name; the first is the untouched model."""


def arms_figure(
    effects: Mapping[str, Float[np.ndarray, " r"]], interval: tuple[float, float], metric: str
) -> "Figure":
    """A row per arm, a dot per draw; the tested one first, with its interval and a line down."""

    figure = new_figure(6.4, 0.36 * len(effects) + 1.0)
    axis = figure.subplots()
    rng = np.random.default_rng(0)
    for row, (arm, values) in enumerate(effects.items()):
        colour = SELECTED if arm == "selected" else CONTROL
        spread = rng.uniform(-0.28, 0.28, len(values)) if len(values) > 1 else np.zeros(1)
        axis.scatter(values, row + spread, s=14 if len(values) < 5 else 7, color=colour, alpha=0.6,
                     linewidths=0)  # fmt: skip
        if len(values) >= 5:
            low, high = np.quantile(values, [0.05, 0.95])
            axis.plot([low, high], [row, row], color=colour, linewidth=1.2)
    selected = float(np.max(effects["selected"]))
    axis.plot(interval, [0, 0], color=SELECTED, linewidth=2.4, solid_capstyle="butt")
    axis.axvline(selected, color=SELECTED, linewidth=0.8, linestyle=":")
    axis.axvline(0, color=MARK, linewidth=0.8)
    names = [f"{arm.replace('_', ' ')} ({len(values)})" for arm, values in effects.items()]
    axis.set_yticks(range(len(names)), names, fontsize=10)
    axis.invert_yaxis()
    axis.set_xlabel(metric, fontsize=10)
    axis.tick_params(axis="x", labelsize=10)
    axis.spines[["top", "right", "left"]].set_visible(False)
    return figure


def dose_figure(curve: Curve, metric: str) -> "Figure":
    """Effect against dose; hollow where less than 95 % of the edited tokens stay inside the data."""

    figure = new_figure(4.8, 3.2)
    axis = figure.subplots()
    axis.plot(curve.doses, curve.effects, color=SELECTED, linewidth=1.2, label="selected")
    for dose, effect in zip(curve.doses, curve.effects, strict=True):
        inside = curve.inside.get(dose, 0.0) >= 0.95
        axis.scatter([dose], [effect], s=34, zorder=3, edgecolors=SELECTED,
                     facecolors=SELECTED if inside else "white")  # fmt: skip
    if curve.random:
        doses = sorted(curve.random)
        axis.plot(doses, [curve.random[d] for d in doses], color=CONTROL, linewidth=1, marker="o",
                  markersize=3, label="random latents")  # fmt: skip
        axis.legend(fontsize=9, frameon=False)
    axis.axvline(curve.tested, color=MARK, linewidth=0.8, linestyle=":")
    axis.axhline(0, color=MARK, linewidth=0.8)
    axis.set_xlabel("dose (× largest code)", fontsize=10)
    axis.set_ylabel(metric, fontsize=10)
    axis.tick_params(labelsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def masks_figure(examples: Sequence[MaskExample], names: Sequence[str]) -> "Figure":
    """A row per picture: the picture, the truth, and the prediction of each patch per edit; patches
    whose prediction differs from the untouched model's are framed."""
    from matplotlib.patches import Patch

    titles = ["image", "truth", *examples[0].predictions]
    size = 1.2
    figure = new_figure(size * len(titles), size * len(examples) + 0.9)
    axes = figure.subplots(len(examples), len(titles), squeeze=False)
    used: set[int] = set()
    for row_axes, example in zip(axes, examples, strict=True):
        row_axes[0].imshow(example.image)
        clean = next(iter(example.predictions.values()))
        for axis, classes in zip(
            row_axes[1:], [example.truth, *example.predictions.values()], strict=True
        ):
            changed = (
                (classes != clean) if classes is not example.truth else np.zeros_like(clean, bool)
            )
            _paint(axis, classes, changed)
            used |= set(np.unique(classes).tolist())
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
    for axis in axes.flat:
        axis.set_axis_off()
    handles = [
        Patch(color=class_colour(k), label=plain_text(names[k]) if k >= 0 else "no label")
        for k in sorted(used, key=lambda k: (k < 0, k))
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return figure


def _paint(
    axis: "Axes", classes: Int[np.ndarray, "gh gw"], changed: Bool[np.ndarray, "gh gw"]
) -> None:
    from matplotlib.patches import Rectangle

    colours = np.array([class_colour(int(k)) for k in classes.ravel()]).reshape(*classes.shape, 3)
    axis.imshow(colours, interpolation="nearest")
    for row, column in zip(*np.nonzero(changed), strict=True):
        axis.add_patch(
            Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=0.4)
        )


def class_colour(number: int) -> tuple[float, float, float]:
    """A colour of its own for each class; light grey for none."""
    from matplotlib import colormaps

    if number < 0:
        return (0.93, 0.93, 0.93)
    table = [*colormaps["tab20"].colors, *colormaps["tab20b"].colors]  # pyright: ignore
    return table[(number * 2 + number // 10) % len(table)]


def bars_figure(examples: Sequence[BarExample]) -> "Figure":
    """A row per picture: the picture, and the classes' probabilities under each edit."""

    n = len(examples)
    figure = new_figure(6.6, 1.9 * n + 0.5)
    axes = figure.subplots(n, 2, squeeze=False, width_ratios=[1, 3])
    colours = [MARK, SELECTED, CONTROL, "#9fbfd1"]
    for (left, right), example in zip(axes, examples, strict=True):
        left.imshow(example.image)
        left.set_axis_off()
        rows = np.arange(len(example.names))
        height = 0.8 / len(example.probabilities)
        for number, (title, values) in enumerate(example.probabilities.items()):
            right.barh(
                rows + number * height,
                values,
                height=height,
                color=colours[number % 4],
                label=title,
            )
        labels = [plain_text(str(name)) for name in example.names]
        right.set_yticks(rows + 0.4 - height / 2, labels, fontsize=10)
        right.invert_yaxis()
        right.set_xlim(0, 1)
        right.tick_params(axis="x", labelsize=9)
        right.spines[["top", "right"]].set_visible(False)
    axes[0][1].legend(fontsize=9, frameon=False, loc="lower right")
    axes[-1][1].set_xlabel("probability", fontsize=10)
    return figure
