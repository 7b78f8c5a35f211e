"""Tables of the docs from reports on disk."""

import json
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.reproduction import Report, main, over_runs


def write(folder: Path, shift: float) -> Path:
    rows = [
        (concept, arm, n, scale, target + shift, 2.0, 1.0, 3.0, 1)
        for concept, target in (("Sky", 60.0), ("Road", 80.0))
        for arm, n, scale in (("selected", 1, -1.0), ("selected", 3, -0.5), ("random_latents", 1, -1.0),
                              ("identity", 1, -1.0))
    ]  # fmt: skip
    columns = ["concept", "arm", "n_latents", "scale", "target_change", "other_change",
               "probability_drop", "accuracy_drop", "n_draws"]  # fmt: skip
    report = folder / "report"
    report.mkdir(parents=True)
    pd.DataFrame(rows, columns=columns).to_csv(report / "summary.csv", index=False)
    verdict = {"effect": 0.5, "null_mean": 0.1, "target_change": 0.6, "other_change": 0.02, "p": 0.01,
               "p_images": 0.02, "p_selection": None}  # fmt: skip
    verdicts = [
        {"concept": "Sky", "verdict": "supported", **verdict},
        {"concept": "Road", "verdict": "no_power", **verdict},
    ]
    (report / "verdict.json").write_text(json.dumps(verdicts))
    calibration = {"n_supported": 1, "n_hypotheses": 50, "share_supported": 0.02,
                   "false_discovery_rate": 0.01, "uniformity_p": 0.5}  # fmt: skip
    (report / "calibration.json").write_text(json.dumps(calibration))
    return folder


def test_interval_over_runs_by_hand():
    mean, half = over_runs([1.0, 2.0, 3.0])
    assert mean == 2.0 and half == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
    assert over_runs([5.0])[0] == 5.0 and over_runs([5.0])[1] != over_runs([5.0])[1]


def test_tables(tmp_path, capsys):
    runs = [write(tmp_path / str(number), shift) for number, shift in enumerate((-1.0, 0.0, 1.0))]
    assert Report.read(runs[0]).tested == (1, -1.0)
    main([f"camvid={','.join(map(str, runs))}"])
    text = capsys.readouterr().out
    assert (
        "| 1, -1 (tested) | selected | 70.0 ± 2.5 | 2.0 ± 0.0 | 3.0 ± 0.0 | 1.0 ± 0.0 | 69.0, 70.0, 71.0 |"
        in text
    )
    assert "| 0 | 1 | 0 | 1 | 1 of 50 (2.0 %) | 1.0 % | 0.50 |" in text
    assert "| random latents | 70.0 / 2.0 | – |" in text
    assert (
        "| Sky | supported, supported, supported | 0.50 ± 0.00 | 0.10 ± 0.00 | 60.0 ± 0.0" in text
    )
    assert "| selected | 60.0 / 2.0 | 60.0 / 2.0 |" in text.partition("<summary>Sky</summary>")[2]


def test_refuses_folders_without_a_report(tmp_path):
    with pytest.raises(SystemExit, match=r"no verdict\.json"):
        main([f"camvid={tmp_path}"])
