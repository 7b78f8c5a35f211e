"""Tables of the docs from reports on disk."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.reproduction import Report, main, over_runs
from saev.intervention.judge.mean_tradeoff import MeanTradeoff
from saev.intervention.report.files import SUMMARY_COLUMNS, mean_tradeoff_table


def write(folder: Path, shift: float, tradeoff: bool = True) -> Path:
    rows = [
        (concept, arm, n, scale, amount, target + shift, 0.0, 0.0, 2.0, 1.0, 3.0, 1)
        for concept, target in (("Sky", 60.0), ("Road", 80.0))
        for arm, n, scale, amount in (
            ("selected", 1, -1.0, 1.0), ("selected", 1, -1.0, 0.25), ("selected", 3, -0.5, 1.0),
            ("random_latents", 1, -1.0, 1.0), ("identity", 1, -1.0, 1.0),
        )
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=[*SUMMARY_COLUMNS, "n_draws"])
    table.loc[table.amount != 1, "target_change"] = 0.0  # a dose of the trade-off, of no table here
    report = folder / "report"
    report.mkdir(parents=True)
    table.to_csv(report / "summary.csv", index=False)
    verdict = {"effect": 0.5, "null_mean": 0.1, "target_change": 0.6, "other_change": 0.02, "p": 0.01,
               "p_images": 0.02, "p_selection": None}  # fmt: skip
    rung = {"holds": True, "estimate": 0.5, "interval": [0.4, 0.6], "p": 0.01, "q": 0.01}
    sky = {"effect": rung, "learned": {**rung, "holds": shift > 0}}
    road = {name: {**rung, "holds": False} for name in sky}
    verdicts = [
        {"concept": "Sky", "verdict": "supported", "rungs": sky, **verdict,
         "match": {"rate": 1.0, "mean": 1.2, "dose": 1.0 + shift / 10}},
        {"concept": "Road", "verdict": "no_match", "rungs": road, **verdict,
         "match": {"rate": 0.5, "mean": 1.0, "dose": 1.0 + shift / 10}},
    ]  # fmt: skip
    (report / "verdict.json").write_text(json.dumps(verdicts))
    rate = {"test": "random_latents", "share": 0.05, "share_corrected": 0.01}
    (report / "calibration.json").write_text(json.dumps({"rates": [rate]}))
    if tradeoff:
        nan = (math.nan, math.nan)
        found = [
            MeanTradeoff("selected", 0.5, 0.1, (0.08, 0.12), 2, 0, math.nan, nan, 0),
            MeanTradeoff("diffmean", 0.5, 0.2, (0.1, 0.3), 1, 1, -0.1 + shift / 100, (-0.2, 0.0), 1),
            MeanTradeoff("diffmean", 0.25, 0.9, (0.1, 0.3), 2, 0, -0.1, (-0.2, 0.0), 2),
        ]  # fmt: skip
        mean_tradeoff_table(found).to_csv(report / "mean_tradeoff.csv", index=False)
    return folder


def test_interval_over_runs_by_hand():
    mean, half = over_runs([1.0, 2.0, 3.0])
    assert mean == 2.0 and half == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
    assert over_runs([1.0, math.nan, 2.0, 3.0]) == (mean, half)
    assert over_runs([5.0])[0] == 5.0 and math.isnan(over_runs([5.0])[1])
    assert all(math.isnan(value) for value in over_runs([math.nan]))


def test_tables(tmp_path, capsys):
    runs = [write(tmp_path / str(number), shift) for number, shift in enumerate((-1.0, 0.0, 1.0))]
    assert Report.read(runs[0]).tested == (1, -1.0)
    main([f"camvid={','.join(map(str, runs))}"])
    text = capsys.readouterr().out
    for line in (
        "| 1, -1 (tested) | selected | 70.0 ± 2.5 | 2.0 ± 0.0 | 3.0 ± 0.0 | 1.0 ± 0.0 | 69.0, 70.0, 71.0 |",
        "| run | hypotheses | effect | learned | selective | not supported | no power | no match |",
        "| 2 | 2 | 1 | 1 | – | 0 | 0 | 1 |",
        "| mean | 2.0 ± 0.0 | 1.0 ± 0.0 | 0.3 ± 1.4 | – | 0.0 ± 0.0 | 0.0 ± 0.0 | 1.0 ± 0.0 |",
        "| run | tokens changed | length | dose |",
        "| 0 | 0.75 | 1.10 | 0.90 |",
        "| mean | 0.75 ± 0.00 | 1.10 ± 0.00 | 1.00 ± 0.25 |",
        "| run | random latents, p ≤ α | random latents, p ≤ α / h |",
        "| mean | 5.0 ± 0.0 | 1.0 ± 0.0 |",
        "| selected | 10.0 ± 0.0 | – | – | 2 of 2, 2 of 2, 2 of 2 |",
        "| diffmean | 20.0 ± 0.0 | -10.0 ± 2.5 | -11.0 [-20.0, 0.0], -10.0 [-20.0, 0.0], -9.0 [",
        "| 1 of 2, 1 of 2, 1 of 2 |",
        "| random latents | 70.0 / 2.0 | – |",
        "| Road | no match, no match, no match | 0.50 ± 0.00 | 0.10 ± 0.00 | 60.0 ± 0.0",
        "| Sky | effect, effect, effect + learned | 0.50 ± 0.00",
    ):
        assert line in text
    assert "| selected | 60.0 / 2.0 | 60.0 / 2.0 |" in text.partition("<summary>Sky</summary>")[2]


def test_without_doses_there_is_no_tradeoff(tmp_path, capsys):
    main([f"camvid={write(tmp_path, 0.0, tradeoff=False)}"])
    assert "Trade-off" not in capsys.readouterr().out


def test_refuses_folders_without_a_report(tmp_path):
    with pytest.raises(SystemExit, match=r"no verdict\.json"):
        main([f"camvid={tmp_path}"])
