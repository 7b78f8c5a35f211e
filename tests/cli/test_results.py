"""metrics.json and what of it is logged; the device of a command."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from saev.cli.results import device_of, keep_metrics
from saev.tracking import Tracking


class Logged(Tracking):
    """Remembers what it is given."""

    def __init__(self) -> None:
        self.metrics: list[tuple[dict[str, Any], int | None]] = []
        self.files: list[Path] = []

    def log_metrics(self, metrics, step=None) -> None:
        self.metrics.append((dict(metrics), step))

    def log_artifact(self, path, artifact_path=None) -> None:
        self.files.append(Path(path))


def test_metrics_are_written_sorted_and_logged_with_their_step(tmp_path: Path) -> None:
    tracking = Logged()
    path = keep_metrics({"val/b": 2.0, "val/a": 1.0}, tmp_path, tracking, step=7)
    assert path == tmp_path / "metrics.json"
    assert path.read_text() == '{\n  "val/a": 1.0,\n  "val/b": 2.0\n}\n'
    assert tracking.metrics == [({"val/a": 1.0, "val/b": 2.0}, 7)]
    assert tracking.files == [path]


def test_what_could_not_be_measured_is_in_the_file_alone(tmp_path: Path) -> None:
    tracking = Logged()
    path = keep_metrics({"a": math.nan, "b": 1.0}, tmp_path, tracking)
    assert math.isnan(json.loads(path.read_text())["a"])
    assert tracking.metrics == [({"b": 1.0}, None)]


def test_only_new_metrics_are_logged_again(tmp_path: Path) -> None:
    tracking = Logged()
    path = keep_metrics({"a": 1.0, "b": 2.0}, tmp_path, tracking, new={"b": 2.0})
    assert json.loads(path.read_text()) == {"a": 1.0, "b": 2.0}
    assert tracking.metrics == [({"b": 2.0}, None)]


def test_device_of_an_accelerator() -> None:
    assert device_of("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="abacus"):
        device_of("abacus")
