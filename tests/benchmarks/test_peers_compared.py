"""The comparison of libraries: what is run, what is skipped, and what the tables hold."""

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from benchmarks import peers_compared
from benchmarks.peer_images import in_groups, with_few_pixels
from benchmarks.peer_workers import train_peer
from benchmarks.peers_compared import BENCHMARKED, Comparison
from benchmarks.peers_table import page
from datamodules.activations import Manifest
from saev.interop import open_sae
from saev.intervention.hypothesis import read_hypothesis
from tests.fakes.activations import write_folder

SIZES = {"steps": 4, "batch": 16, "d_sae": 32, "k": 4, "n_images": 8, "n_described": 8}
SIZES |= {"n_permutations": 10, "n_benchmark": 8, "n_bootstrap": 40}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A thousand images of one colour each, and two of a class."""
    folder = tmp_path / "data"
    (folder / "imagenet1000").mkdir(parents=True)
    for number in range(1000):
        (folder / "imagenet1000" / f"n{number:08}_a_{number}.JPEG").write_bytes(b"")
    for split in ("train", "test"):
        (folder / "caltech26" / split / "crab").mkdir(parents=True)
        Image.new("RGB", (64, 48)).save(folder / "caltech26" / split / "crab" / "1.jpg")
    return folder


@pytest.fixture
def comparison(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Comparison:
    monkeypatch.setattr(peers_compared, "write_tokens", lambda recording, folder: None)
    args = argparse.Namespace(
        envs=tmp_path / "envs", out=tmp_path / "out", data=data, only=list(peers_compared.PEERS), **SIZES
    )  # fmt: skip
    return Comparison(args)


class FakeCommands:
    """Leaves the result of every step, but for the commands of one library, which fail."""

    def __init__(self, out: Path, broken: str = "nobody") -> None:
        self.out, self.broken, self.ran = out, broken, list[list[str]]()

    def __call__(self, command: list[str], stdout: Any, **_: Any) -> Any:
        self.ran.append(command)
        words = " ".join(command)
        if f"train_peer.py {self.broken} " in words:
            stdout.write("no such module")
            return subprocess.CompletedProcess(command, 1)
        for name in ("saev", "saelens", "sparsify", "overcomplete", "dictionary_learning"):
            for kind in ("untrained", "pca", name):
                self._leave(words, kind)
        return subprocess.CompletedProcess(command, 0)

    def _leave(self, words: str, name: str) -> None:
        places = {
            "saev.record": "activations/model-layer10-patch-0/manifest.json",
            "saev.train": "head/head/config.json",
            f"{name}/theirs --took": f"{name}/trained.json",
            f"saev.convert sae={self.out / name}/theirs": f"{name}/sae/config.json",
            "+baselines.trained.pca=": "evaluate/baselines/baselines.csv",
            f"{name}/describe sae": f"{name}/describe/metrics.json",
            f"{name}/intervene hypothesis": f"{name}/intervene/report/mean_tradeoff.csv",
            "visaebench_caltech ": "visaebench_caltech/visaebench/leaderboard.csv",
            "visaebench_imagenet ": "visaebench_imagenet/visaebench/leaderboard.csv",
            "visaebench_caltech_32px ": "visaebench_caltech_32px/visaebench/leaderboard.csv",
        }
        for said, place in places.items():
            if said in words:
                (self.out / place).parent.mkdir(parents=True, exist_ok=True)
                (self.out / place).write_text("{}")


def test_every_step_is_run_once(comparison: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCommands(comparison.out)
    monkeypatch.setattr(subprocess, "run", fake)
    assert comparison.run() == []
    # record, head; train, convert, describe, intervene of seven; evaluate; three benchmarks
    assert len(fake.ran) == 2 + 4 * 7 + 1 + 3
    assert comparison.run() == [] and len(fake.ran) == 34
    workers = [command for command in fake.ran if "train_peer.py" in command[1]]
    given = {tuple(one[one.index("--rate") :][:12]) for one in workers}
    assert len(given) == 1, "rate, seed and sizes are the same words for all"
    hypothesis, _ = read_hypothesis(comparison.out / "hypothesis.yaml")
    assert hypothesis.untrained == 1 and hypothesis.selector.by == "effect"


def test_a_library_that_fails_is_named_and_left_out(
    comparison: Comparison, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeCommands(comparison.out, broken="overcomplete")
    monkeypatch.setattr(subprocess, "run", fake)
    assert comparison.run() == ["train-overcomplete"]
    assert "no such module" in capsys.readouterr().out
    later = [" ".join(one) for one in fake.ran if "saev.evaluate" in one[2]]
    assert later and not any("overcomplete" in words for words in later)


def test_images_are_made_of_others(data: Path, tmp_path: Path) -> None:
    small = with_few_pixels(data / "caltech26", tmp_path / "small")
    with Image.open(small / "train" / "crab" / "1.png") as picture:
        assert picture.size == (32, 32)
    groups = in_groups(data / "imagenet1000", tmp_path / "groups")
    found = {path.name for path in (groups / "train").iterdir()}
    assert len(found) == 12 and found == {path.name for path in (groups / "test").iterdir()}
    dogs = sorted(path.name for path in groups.glob("*/dog/*"))
    assert dogs[0].endswith("_151.JPEG") and dogs[-1].endswith("_268.JPEG") and len(dogs) == 118
    assert in_groups(data / "nowhere", groups) == groups, "what stands is left"


def test_ours_from_normalised_tokens_is_converted_to_raw_ones(tmp_path: Path) -> None:
    """The worker's way for ours; the others need their environments (tests/interop)."""
    rng = np.random.default_rng(0)
    acts = [rng.normal(3, 2, (8, 6)).astype(np.float32) for _ in range(40)]
    write_folder(tmp_path / "recording", [acts])
    statistics = Manifest.read(tmp_path / "recording").statistics
    x = torch.from_numpy(np.concatenate(acts))
    x_bar = (x - torch.tensor(statistics.mean)) * statistics.scale
    a = argparse.Namespace(rate=0.0, device="cpu", seed=0, **SIZES)
    trained = train_peer.saev(x_bar, a, "untrained")
    (tmp_path / "theirs").mkdir()
    trained.save(tmp_path / "theirs")
    sae = open_sae(tmp_path / "theirs", recording=tmp_path / "recording", normalized=True)
    x_hat = torch.tensor(statistics.mean) + trained.reconstruct(x_bar) / statistics.scale
    torch.testing.assert_close(sae.decode(sae.encode(x)), x_hat, atol=1e-3, rtol=1e-3)


def write_findings(folder: Path) -> Path:
    rows = [
        (metric, name, value, low, high)
        for metric, value, low, high in (
            ("explained_variance", 0.79, 0.78, 0.8), ("l0", 32.0, 32.0, 32.0),
            ("dead_fraction", 0.011, np.nan, np.nan), ("concept_auroc", 0.95, 0.9, 0.99),
        )
        for name in ("sae", "saelens")
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["metric", "dictionary", "value", "low", "high"])
    (folder / "evaluate" / "baselines").mkdir(parents=True)
    table.to_csv(folder / "evaluate" / "baselines" / "baselines.csv", index=False)
    (folder / "sizes.json").write_text(json.dumps(SIZES))
    (folder / "saelens").mkdir()
    (folder / "saelens" / "trained.json").write_text('{"processor_seconds": 61.4}')
    report = folder / "saelens" / "intervene" / "report"
    report.mkdir(parents=True)
    arms = [("selected", 6.04, np.nan, 6), ("diffmean", 7.0, -1.25, 7)]
    pd.DataFrame(
        [
            {"arm": arm, "level": level, "other_change": other, "other_change_low": other - 1,
             "other_change_high": other + 1, "difference": apart, "difference_low": apart - 1,
             "difference_high": apart + 1, "n_concepts": n, "n_missing": 7 - n, "n_pairs": n}
            for arm, other, apart, n in arms for level in (25.0, 50.0)
        ]
    ).to_csv(report / "mean_tradeoff.csv", index=False)  # fmt: skip
    for name in BENCHMARKED[:2]:
        where = folder / "visaebench_caltech" / "visaebench" / name
        where.mkdir(parents=True)
        values = {"sae": 0.05, "untrained": 0.7, "covariance": 0.2, "raw": 0.4, "pca": 0.1}
        rows = [
            {"metric": "fvu", "dictionary": one, "value": value, "null": 1.9,
             "separates": name == "saev"} for one, value in values.items()
        ]  # fmt: skip
        pd.DataFrame(rows).to_csv(where / "table.csv", index=False)
    return folder


def test_the_tables_have_what_was_found_and_dashes(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("benchmarks.peers_table.SEVEN", _only_fvu())
    text = page(write_findings(tmp_path))
    lines = text.splitlines()
    (ours,) = [line for line in lines if line.startswith("| **saev**, TopK + AuxK | 0.790")]
    assert "[0.780, 0.800] | 32.0 |" in ours and "| 1.1 |" in ours
    first, edits = [line for line in lines if line.startswith("| SAELens |")]
    assert "6.0 [5.0, 7.0] | 6 of 7 | 61 |" in first
    assert edits == "| SAELens | 6.0 [5.0, 7.0] | – | – | -1.2 [-2.2, -0.2] | – |"
    (row,) = [line for line in lines if line.startswith("| M2 `fvu`, less |")]
    assert row == "| M2 `fvu`, less | 0.050 * | 0.050 | 0.700 | 0.200 | 0.400 | 0.100 | 1.900 |"
    assert "| overcomplete |" in text and "### Caltech-26\n" in text


def _only_fvu() -> list[Any]:
    from saev.evaluation.visaebench.seven_numbers import SEVEN

    return [metric for metric in SEVEN if metric.key == "fvu"]
