"""The picture of ``bench.json``: how close everything comes to its limit."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.speed.rows import Row

PANELS = {
    "step": (
        "encoder_product",
        "training step, share of the rate of the bare float32 encoder product",
    ),
    "loader_shuffled": ("copies", "tokens out of tars, share of the bare copies"),
    "loader_ordered": ("copies", "tokens out of tars, share of the bare copies"),
    "record": ("bare_forward", "images, share of the bare forward pass"),
}
OURS, THEIRS = "#1f77b4", "#bbbbbb"
LIBRARIES = ("sae-lens", "sparsify", "dictionary-learning", "overcomplete")


def draw(rows: Sequence[Row], machine: Mapping[str, object], path: Path) -> None:
    """A bar for each thing that has a limit, grouped by limit and size."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        limit, title = PANELS.get(row.what, (None, ""))
        if row.ratio is None or row.ratio_to != limit:
            continue
        size = "" if row.d_sae is None else f"\n{row.d_sae:,} latents, batches of {row.batch:,}"
        groups.setdefault(title + size, []).append(row)
    if not groups:
        return
    heights = [len(found) + 1.5 for found in groups.values()]
    figure, axes = plt.subplots(
        len(groups), 1, figsize=(8, 0.3 * sum(heights) + 0.6), height_ratios=heights, squeeze=False
    )
    for axis, (title, found) in zip(axes.flat, groups.items(), strict=True):
        names = [_name(row) for row in found]
        colours = [THEIRS if row.variant in LIBRARIES else OURS for row in found]
        values = [100 * (row.ratio or 0) for row in found]
        bars = axis.barh(names, values, color=colours)
        axis.bar_label(bars, [f"{value:.0f} %" for value in values], padding=3, fontsize=8)
        axis.axvline(100, color="black", linewidth=0.8, linestyle=":")
        axis.set_xlim(0, max(115, 1.15 * max(values)))
        axis.invert_yaxis()
        axis.set_title(title, fontsize=9, loc="left")
        axis.tick_params(labelsize=8)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    figure.supxlabel(
        f"{machine['processor']}, {machine['threads']} threads, torch {machine['torch']}",
        fontsize=8,
    )
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _name(row: Row) -> str:
    kind = {"loader_shuffled": "shuffled, ", "loader_ordered": "ordered, "}.get(row.what, "")
    return kind + row.variant
