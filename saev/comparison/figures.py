"""Figures of a comparison, from its tables."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

COLOURS = ("#1f5f8b", "#b5493a", "#3b7d3f", "#8a5a9e", "#a67c00", "#4d4d4d")
VERDICTS = {
    "both": ("#31688e", "o", "both have it"),
    "only_a": ("#b5493a", "^", "{b} lacks it"),
    "only_b": ("#a67c00", "v", "{a} lacks it"),
    "neither": ("#9aa1ab", "x", "neither"),
    "undecided": ("#5b6472", "s", "undecided"),
}


def match_figure(matches: "pd.DataFrame") -> "Figure":
    """Share of latents whose best partner correlates at least so much, next to the mis-paired level.

    One curve per ordered pair; the dashed curve is the 95 % level of the control.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axis = figure.subplots()
    pairs = list(matches.groupby(["sae_a", "sae_b"], sort=False))
    for number, ((one, two), rows) in enumerate(pairs):
        colour = COLOURS[number % len(COLOURS)]
        for column, style, label in (
            ("correlation", "-", f"{one} → {two}"), ("correlation_null", ":", None)
        ):  # fmt: skip
            values = np.sort(rows[column].dropna().to_numpy())
            share = 1 - np.arange(len(values)) / max(len(values), 1)
            axis.plot(values, share, style, color=colour, label=label, linewidth=1.6)
    axis.plot([], [], ":", color="#5b6472", label="mis-paired, 95 % level")
    axis.set_xlabel("correlation with the best partner")
    axis.set_ylabel("share of latents at or above")
    axis.set_ylim(0, 1.02)
    axis.legend(fontsize=8, frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def concept_figure(concepts: "pd.DataFrame") -> "Figure":
    """AUROC of every concept in one dictionary against the other, a panel per pair."""
    from matplotlib.figure import Figure

    pairs = list(concepts.groupby(["sae_a", "sae_b"], sort=False))
    n_columns = min(len(pairs), 3)
    n_rows = -(-len(pairs) // n_columns)
    figure = Figure(figsize=(4.6 * n_columns, 4.6 * n_rows), layout="constrained")
    axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for axis in axes[len(pairs) :]:
        axis.set_axis_off()
    for axis, ((one, two), rows) in zip(axes, pairs, strict=False):
        low = min(0.45, float(rows[["auroc_a", "auroc_b"]].min().min()) - 0.02)
        axis.plot([low, 1], [low, 1], color="#d9dde3", linewidth=1)
        for verdict, (colour, marker, label) in VERDICTS.items():
            own = rows[rows["verdict"] == verdict]
            if len(own):
                name = label.format(a=one, b=two)
                axis.scatter(own["auroc_a"], own["auroc_b"], s=22, color=colour, marker=marker,
                             label=f"{name} ({len(own)})", alpha=0.85, linewidths=1.2)  # fmt: skip
        axis.set_xlabel(f"AUROC of the best latent, {one}")
        axis.set_ylabel(f"AUROC of the best latent, {two}")
        axis.set_aspect("equal")
        axis.legend(fontsize=7, frameon=False, loc="lower right")
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def power_figure(power: "pd.DataFrame") -> "Figure":
    """Share of the concepts known to be there that are found with fewer positive images."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axis = figure.subplots()
    groups = power.groupby(["sae", "source", "kind"], sort=False)
    for number, ((sae, source, kind), rows) in enumerate(groups):
        axis.plot(rows["n_positive"], rows["found"], "o-", color=COLOURS[number % len(COLOURS)],
                  label=f"{sae}: {source}, {kind} ({rows['n_concepts'].max()} concepts)")  # fmt: skip
    axis.axhline(0.8, color="#d9dde3", linewidth=1)
    axis.set_xscale("log")
    ticks = sorted(power["n_positive"].unique())
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.minorticks_off()
    axis.set_ylim(-0.02, 1.02)
    axis.set_xlabel("positive test images left")
    axis.set_ylabel("known concepts found")
    axis.legend(fontsize=8, frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    return figure
