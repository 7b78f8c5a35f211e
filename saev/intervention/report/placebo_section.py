"""Error rates and power by placebo latents: their table, figure and part of the page."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saev.intervention.judge.placebo import Placebo, Power
from saev.intervention.report.figures import CONTROL, MARK, SELECTED
from saev.pages.notebook_figure import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE_COLUMNS = ["test", "p ≤ α %", "95 %", "p ≤ α / h %", "95 %", "hypotheses"]


def table_rows(placebo: Placebo) -> list[list[str]]:
    """A row per test and rung, in the order of ``TABLE_COLUMNS``."""
    return [
        [
            _words(rate.test) + (" (!)" if rate.test in placebo.exceeded else ""),
            f"{100 * rate.share:.1f}",
            _interval(rate.interval),
            f"{100 * rate.share_corrected:.1f}",
            _interval(rate.interval_corrected),
            str(rate.n),
        ]
        for rate in placebo.rates
    ]


def power_rows(placebo: Placebo) -> list[list[str]]:
    """A row per strength: strength, mean effect, power at α and at α / h with intervals, the test that
    passes least, number."""
    return [
        [
            f"{one.strength:g}",
            f"{one.effect:.2f}",
            f"{100 * one.share:.0f}",
            _interval(one.interval),
            f"{100 * one.share_corrected:.0f}",
            _interval(one.interval_corrected),
            _strictest(one),
            str(one.n),
        ]
        for one in placebo.power
    ]


def placebo_section(placebo: Placebo | None, figures: Path) -> dict[str, Any] | None:
    """What the page says of it, with its figure saved; None where it was not asked for."""
    if placebo is None or not placebo.rates:
        return None
    placebo_figure(placebo).savefig(figures / "placebo.png", dpi=110)
    shares = {rate.test: 100 * rate.share for rate in placebo.rates}
    return {
        "n_hypotheses": placebo.n_hypotheses,
        "n_sets": placebo.n_sets,
        "n_unmatched": placebo.n_unmatched,
        "alpha": placebo.alpha,
        "bound": f"{100 * placebo.bound:g}",
        "exceeded": [f"{_words(test)} {shares[test]:.0f} %" for test in placebo.exceeded],
        "rows": table_rows(placebo),
        "power": power_rows(placebo),
        "figure": "figures/placebo.png",
    }


def placebo_figure(placebo: Placebo) -> "Figure":
    """A dot with its interval per test and rung, a line at α and a dotted one at the bound."""
    figure = new_figure(6.4, 0.3 * len(placebo.rates) + 0.9)
    axis = figure.subplots()
    for row, rate in enumerate(placebo.rates):
        colour = SELECTED if rate.test in placebo.exceeded else CONTROL
        low, high = (100 * value for value in rate.interval)
        axis.plot([low, high], [row, row], color=colour, linewidth=1.6, solid_capstyle="butt")
        axis.scatter([100 * rate.share], [row], s=26, color=colour, zorder=3)
    axis.axvline(100 * placebo.alpha, color=MARK, linewidth=0.9)
    axis.axvline(100 * placebo.bound, color=MARK, linewidth=0.9, linestyle=":")
    axis.set_yticks(
        range(len(placebo.rates)), [_words(rate.test) for rate in placebo.rates], fontsize=8
    )
    axis.invert_yaxis()
    axis.set_xlim(left=0)
    axis.set_xlabel("placebo latents that pass, % (line: α, dotted: bound)", fontsize=8)
    axis.tick_params(axis="x", labelsize=8)
    axis.spines[["top", "right", "left"]].set_visible(False)
    return figure


def _strictest(power: Power) -> str:
    test = power.strictest
    return "" if test is None else f"{_words(test)}, {100 * power.by_test[test]:.0f}"


def _words(test: str) -> str:
    return test.replace("rung_", "rung: ").replace("_", " ")


def _interval(between: Sequence[float]) -> str:
    return f"{100 * between[0]:.1f} to {100 * between[1]:.1f}"
