"""The seven numbers of ViSAEBench through the real command."""

import json
from pathlib import Path

import pandas as pd
import pytest
from hydra.utils import instantiate

from saev.defaults import conf_node
from tests.fakes.commands import Run, assert_sentence

pytestmark = pytest.mark.slow

ARMS = ["sae", "untrained", "covariance", "raw", "pca"]
SEVEN = [
    "spatial_coherence", "fvu", "probe_ratio", "sparse_probing", "monosemanticity", "transfer",
    "absorption",
]  # fmt: skip
QUICK = (
    "benchmark=visaebench", "trainer.accelerator=cpu", "evaluation.figures=false",
    "evaluation.fidelity=false", "evaluation.num_workers=0", "visaebench.n_bootstrap=40",
    "visaebench.pool_images=16", "visaebench.min_images=5", "visaebench.ks=[1,5,10]",
)  # fmt: skip


def test_seven_rows_on_scenes(run: Run, trained: Path, tmp_path: Path) -> None:
    classes = instantiate(conf_node("images/scenes"), n_images=8).class_names
    siblings = tmp_path / "siblings.tsv"
    siblings.write_text("".join(f"{name}\tshape\n" for name in classes))
    status = run(
        "evaluate", f"sae={trained}/run/sae", *QUICK, f"visaebench.siblings={siblings}",
        "images=scenes", "images.n_images=320", "images@transfer_images=scenes",
        "transfer_images.n_images=60", "transfer_images.seed=7", f"hydra.run.dir={tmp_path}/out",
    )  # fmt: skip
    assert status is None, status
    folder = tmp_path / "out" / "visaebench"
    frame = pd.read_parquet(folder / "table.parquet")
    assert list(frame["metric"].unique()) == SEVEN and len(frame) == 7 * len(ARMS)
    assert frame["reason"].isna().all() and frame["null"].notna().all()
    assert (frame["low"] <= frame["high"]).all()
    assert pd.read_csv(folder / "table.csv").shape == frame.shape
    value = frame.set_index(["metric", "dictionary"])["value"]
    for key in ("spatial_coherence", "fvu", "monosemanticity", "transfer"):
        assert value[key, "sae"] != value[key, "untrained"], key
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    content = json.loads((folder / "visaebench.json").read_text())
    for key in SEVEN:
        assert metrics[f"visaebench/{key}"] == value[key, "sae"]
        assert metrics[f"visaebench/{key}_untrained"] == value[key, "untrained"]
        answer = content["metrics"][key]["separates_trained_from_untrained"]
        assert metrics[f"visaebench/{key}_separates"] == answer
    # both are 1 − explained variance less the square of a mean error: over d for what it documents
    found = content["metrics"]["fvu"]["dictionaries"]["sae"]
    width = 128
    left = (found["documented"] - found["value"] / width) / (1 - 1 / width)
    assert left == pytest.approx(1 - metrics["val/explained_variance"], rel=1e-4)
    assert not content["judge"]["is_independent"]
    page = (folder / "index.html").read_text()
    assert "separates trained from untrained" in page and "://" not in page
    assert (folder / "numbers.png").is_file()


def test_without_labels_or_others_the_rest_is_there(
    run: Run, trained: Path, photos: Path, tmp_path: Path
) -> None:
    status = run(
        "evaluate", f"sae={trained}/run/sae", *QUICK, "images=folder", f"images.roots=[{photos}]",
        "images.labels=none", "images.val_fraction=0.6", f"hydra.run.dir={tmp_path}/out",
    )  # fmt: skip
    assert status is None, status
    frame = pd.read_parquet(tmp_path / "out" / "visaebench" / "table.parquet")
    own = frame[frame["dictionary"] == "sae"].set_index("metric")
    assert list(own.index) == SEVEN
    for key, word in (
        ("probe_ratio", "label"), ("sparse_probing", "label"), ("absorption", "label"),
        ("transfer", "transfer_images"), ("spatial_coherence", "min_images"),
    ):  # fmt: skip
        reason = own.loc[key, "reason"]
        if key != "spatial_coherence" or reason:
            assert word in str(reason), key
    assert own.loc[["fvu", "monosemanticity"], "value"].notna().all()
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert "visaebench/transfer" not in metrics and "visaebench/fvu_untrained" in metrics


def test_a_leaderboard(run: Run, trained: Path, sae_dir: Path, tmp_path: Path) -> None:
    status = run(
        "evaluate", f"saes=[{sae_dir},{trained}/run/sae]", "names=[random,short]", *QUICK,
        "images=scenes", "images.n_images=60", f"hydra.run.dir={tmp_path}/out",
    )  # fmt: skip
    assert status is None, status
    folder = tmp_path / "out" / "visaebench"
    frame = pd.read_parquet(folder / "leaderboard.parquet")
    assert sorted(frame["name"].unique()) == ["random", "short"] and len(frame) == 14
    assert (frame["mean_rank"].diff().dropna() >= 0).all()
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    for name in ("random", "short"):
        own = pd.read_parquet(folder / name / "table.parquet").set_index(["metric", "dictionary"])
        row = frame[frame["name"] == name].set_index("metric")
        assert row["value"]["fvu"] == own["value"]["fvu", "sae"]
        assert row["untrained"]["fvu"] == metrics[f"visaebench/{name}/fvu_untrained"]
    page = (folder / "index.html").read_text()
    assert 'href="short/index.html"' in page and "://" not in page


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("saes=[a,b]",), ("saes", "benchmark=visaebench")),
        (("saes=[a]", "benchmark=visaebench"), ("two or more",)),
        (("saes=[a,b]", "sae=c", "benchmark=visaebench"), ("saes and sae",)),
        (("saes=[a,b]", "names=[x,x]", "benchmark=visaebench"), ("names", "different")),
        (("saes=[a,b]", "names=[x,../y]", "benchmark=visaebench"), ("names", "folder")),
    ],
)
def test_a_leaderboard_of_what(
    run: Run, overrides: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert_sentence(run("evaluate", *overrides), *words)


def test_a_benchmark_that_there_is_not_or_of_a_sweep(run: Run) -> None:
    assert_sentence(run("evaluate", "sae=x", "benchmark=other"), "benchmark", "visaebench")
    assert_sentence(run("evaluate", "sweep=x", "benchmark=visaebench"), "sweep", "benchmark")
