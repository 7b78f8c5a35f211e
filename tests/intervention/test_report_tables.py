"""Tables and figures of a controlled experiment's report, from made-up results."""

import json
import math
import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Text

from saev.intervention.hypothesis import ARMS, BASELINES
from saev.intervention.judge.dose_curves import TradeoffRow
from saev.intervention.judge.error_rates import ErrorRate
from saev.intervention.judge.mean_tradeoff import MeanTradeoff, TradeoffPath
from saev.intervention.judge.rungs import RUNGS, Rung
from saev.intervention.judge.verdict import VERDICTS, Verdict
from saev.intervention.report.figures import MaskExample, masks_figure, plain_text
from saev.intervention.report.files import SUMMARY_COLUMNS, mean_tradeoff_table, tradeoff_table
from saev.intervention.report.page import clearest_first, rung_counts
from saev.intervention.report.tradeoff_figure import STYLES, tradeoff_figure
from saev.intervention.result import TRADEOFF_ARMS


def verdict(concept: str, size: float, **holds: bool) -> Verdict:
    """Supported where the rung "effect" holds."""
    rungs = {name: Rung(held, 0.1, (0.0, 0.2), 0.01, 0.02) for name, held in holds.items()}
    word = "supported" if holds.get("effect") else "not_supported"
    return Verdict(
        concept, concept, word, rungs, size, (0.0, 1.0), 0.01, 0.01, None, {}, 0.01, {}, 1.0, 0.0,
        0.0, 0.1, 0.5, 0.1, 0.8, 0.2, 20, 39, "target_change", "decrease", [1],
    )  # fmt: skip


def test_rungs_are_counted_and_the_clearest_comes_first():
    rows = [
        verdict("a", 0.9, effect=False, learned=True),
        verdict("b", 0.5, effect=True, learned=False),
        verdict("c", 0.4, effect=True, learned=True),
        verdict("d", 0.6, effect=True, learned=False),
    ]
    assert rung_counts(rows) == {"effect": 3, "learned": 2}  # selective was not tested
    assert [row.concept for row in clearest_first(rows)] == ["c", "d", "b", "a"]


def test_tradeoff_tables_are_per_cent():
    between = (0.1, 0.3)
    row = TradeoffRow("diffmean", 0.5, 0.2, between, -0.1, (-0.2, 0.0))
    never = replace(row, other_change=math.inf, difference=-math.inf)
    v = replace(verdict("sky", 0.5, effect=True), tradeoff=[row, never])
    table = tradeoff_table([v])
    assert table.concept.tolist() == ["sky", "sky"] and table.level.tolist() == [50, 50]
    assert table.other_change.tolist() == [20, math.inf]
    assert table.difference.tolist() == [-10, -math.inf]
    assert table.difference_low[0] == -20 and table.other_change_high[0] == pytest.approx(30)
    json.dumps(v.to_dict(), allow_nan=False)
    mean = MeanTradeoff("diffmean", 0.5, 0.2, between, 6, 1, -0.1, (-0.2, 0.0), 5)
    [told] = mean_tradeoff_table([mean]).to_dict("records")
    assert (told["arm"], told["level"], told["n_concepts"]) == ("diffmean", 50, 6)
    assert (told["n_missing"], told["n_pairs"], told["other_change"]) == (1, 5, 20)


def test_every_line_of_the_tradeoff_has_its_name_beside_its_end():
    ends = dict(zip(TRADEOFF_ARMS, (0.30, 0.31, 0.32, 0.33, 0.34), strict=True))  # all in one place
    paths = {
        arm: TradeoffPath(np.array([0.4, 0.9]), np.array([0.1, end])) for arm, end in ends.items()
    }
    figure = tradeoff_figure(paths, (0.5, 1.0), "target", "other")
    [axis] = figure.axes
    names = {text.get_text(): text for text in axis.texts}
    assert set(names) == {STYLES[arm][0] for arm in TRADEOFF_ARMS}
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in names.values()]  # without the line to its end
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1


@pytest.mark.parametrize(
    ("name", "drawn"),
    [("C++", "C++"), ("$x^$", r"\$x^\$"), ("_under", " _under"), ("two\nlines", "two lines"),
     ("x" * 40, "x" * 31 + "…")],
)  # fmt: skip
def test_names_are_drawn_as_they_are(name, drawn):
    assert plain_text(name) == drawn


def test_a_legend_shows_names_that_matplotlib_would_read_or_leave_out():
    classes = np.array([[0, 1]])
    example = MaskExample(np.zeros((4, 8, 3), np.uint8), classes, {"before": classes}, 0)
    figure = masks_figure([example], ["$x^$", "_under"])
    figure.draw_without_rendering()
    [legend] = figure.legends
    assert [text.get_text().strip() for text in legend.get_texts()] == [r"\$x^\$", "_under"]


def test_every_field_and_column_is_documented():
    formats = (Path(__file__).parents[2] / "docs/formats.md").read_text()
    section = formats.partition("## Controlled experiment")[2].partition("\n## ")[0]
    documented = set(re.findall(r"`([\w.]+)`", section))
    for kind in (Verdict, Rung, TradeoffRow, ErrorRate):
        assert {field.name for field in fields(kind)} - {"n"} <= documented, kind
    row = MeanTradeoff("diffmean", 0.5, 0.2, (0.1, 0.3), 6, 1, -0.1, (-0.2, 0.0), 5)
    assert {*SUMMARY_COLUMNS, *mean_tradeoff_table([row]).columns} <= documented
    assert {*ARMS, *BASELINES, *VERDICTS, *RUNGS} <= documented
