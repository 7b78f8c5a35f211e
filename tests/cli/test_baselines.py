"""Baselines through the real commands: fitted, tabulated, and taken wherever a dictionary is."""

import json
from pathlib import Path

import pandas as pd
import pytest

from saev.sae import SparseAutoencoder
from tests.fakes.commands import SMALL, TINY, Run, assert_sentence, in_process

pytestmark = pytest.mark.slow

QUICK = ("trainer.accelerator=cpu", "evaluation.figures=false")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dictionary and its baselines' table, in ``run`` and ``table``."""
    out = tmp_path_factory.mktemp("trained")

    def call(name: str, *overrides: str) -> None:
        assert in_process(name, f"paths.outputs={out}/outputs", *overrides) is None

    longer = tuple(o for o in TINY if "max_steps" not in o and "n_images" not in o)
    common = (*longer, "images.n_images=60", "trainer.max_steps=80", "evaluation.figures=false")
    call("train", *common, f"hydra.run.dir={out}/run")
    call("train", *common, "model=frozen_decoder", f"hydra.run.dir={out}/frozen")
    call(
        "evaluate", f"sae={out}/run/sae", "baselines.kinds=[untrained,random,pca]", *QUICK,
        f"+baselines.trained.frozen={out}/frozen/sae", f"hydra.run.dir={out}/table",
    )  # fmt: skip
    return out


def test_the_table(trained: Path) -> None:
    frame = pd.read_parquet(trained / "table" / "baselines" / "baselines.parquet")
    columns = ["sae", "untrained", "random", "pca", "frozen"]
    assert list(frame["dictionary"].unique()) == columns
    values = frame.set_index(["metric", "dictionary"])
    metrics = json.loads((trained / "table" / "metrics.json").read_text())
    for key in ("explained_variance", "nmse", "l0", "dead_fraction", "dense_fraction"):
        # the same numbers as the evaluation of the dictionary, by another road
        value = values.loc[(key, "sae"), "value"]
        assert value == pytest.approx(metrics[f"val/{key}"], rel=1e-4, abs=1e-6), key
        control = values.loc[(key, "untrained"), "value"]
        assert control == pytest.approx(metrics[f"baselines/untrained/{key}"])
    for key in ("kl_recovered", "agreement"):
        arm = (
            "fidelity/kl_recovered" if key == "kl_recovered" else "fidelity/agreement/reconstructed"
        )
        assert values.loc[(key, "sae"), "value"] == pytest.approx(metrics[arm], rel=1e-3)
    assert metrics["separates/explained_variance"] == 1
    assert "separates/l0" not in metrics
    known = values.dropna(subset="value")  # a latent may not have enough images for monosemanticity
    assert len(known.drop("monosemanticity", level="metric", errors="ignore")) == 8 * len(columns)
    resampled = known.drop(["dead_fraction", "dense_fraction"], level="metric")
    assert (resampled["low"] <= resampled["high"]).all()
    assert known.loc[["dead_fraction", "dense_fraction"], ["low", "high"]].isna().all(axis=None)
    page = (trained / "table" / "baselines" / "index.html").read_text()
    assert "separates trained from random" in page and "://" not in page
    baseline = SparseAutoencoder.from_pretrained(trained / "table" / "baselines" / "pca")
    assert baseline.cfg.recipe == {"baseline": "pca"}


def test_controls_that_do_not_belong_are_refused(run: Run, trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    sae = SparseAutoencoder.from_pretrained(trained / "run" / "sae")
    from dataclasses import replace

    assert sae.cfg.backbone is not None
    spec = {**sae.cfg.backbone["spec"], "layer": 1}
    sae.cfg = replace(sae.cfg, layer=1, backbone={**sae.cfg.backbone, "spec": spec})
    sae.save_pretrained(folder)
    status = run("evaluate", f"sae={trained}/run/sae", f"+baselines.trained.x={folder}", *QUICK)
    assert_sentence(status, "baselines.trained.x", "layer 1", "on 4")
    status = run("evaluate", f"sae={trained}/run/sae", "baselines.kinds=[magic]", *QUICK)
    assert_sentence(status, "baselines.kinds", "magic")


@pytest.mark.parametrize("model", ["pca", "kmeans"])
def test_fitted_like_any_model(run: Run, tmp_path: Path, model: str) -> None:
    tiny = [o for o in TINY if not o.startswith("model.")]
    size = ["model.expansion=2"] if model == "kmeans" else ["model.k=8"]
    out = tmp_path / "run"
    assert run("train", *tiny, *size, f"model={model}", f"hydra.run.dir={out}") is None
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["val/l0"] == (1 if model == "kmeans" else 8)
    assert metrics["val/explained_variance"] > metrics["untrained/explained_variance"]
    sae = SparseAutoencoder.from_pretrained(out / "sae")
    assert sae.cfg.manifest_sha256 is not None and sae.cfg.images is not None
    status = run("train", *tiny, *size, f"model={model}", f"ckpt_path={out}/x.ckpt")
    assert_sentence(status, "ckpt_path", model)


def test_every_command_takes_a_baseline(run: Run, trained: Path, tmp_path: Path) -> None:
    pca = trained / "table" / "baselines" / "pca"
    assert run("evaluate", f"sae={pca}", *QUICK) is None
    assert run("describe", f"sae={pca}", *SMALL, f"hydra.run.dir={tmp_path}/d") is None
    assert len(pd.read_parquet(tmp_path / "d" / "latents" / "latents.parquet")) == 256
    status = run(
        "compare", f"saes=[{trained}/run/sae,{pca}]", f"hydra.run.dir={tmp_path}/c",
        "comparison.n_permutations=39", "comparison.n_drives=2",
        "comparison.n_bootstrap=40", "trainer.accelerator=cpu",
    )  # fmt: skip
    assert status is None
    assert (tmp_path / "c" / "comparison" / "index.html").is_file()
    hypothesis = tmp_path / "hypothesis.yaml"
    hypothesis.write_text(
        "concept: [shape/star]\nselector: {by: f1, n: 1}\nedit: {kind: set, scale: -1.0, where: all}\n"
        "tokens: patch\nmetric: selective_change\ndirection: decrease\n"
        "images: {discovery: train, test: heldout}\nalpha: 0.05\ndirections: 19\n"
        "untrained: 1\nshuffles: 1\n"
        "doses: [0, -1]\nsupport: {n_discovery_units: 5, n_test_units: 2}\n"
    )
    status = run(
        "intervene", f"sae={pca}", "head=attributes", f"hypothesis={hypothesis}",
        "images=scenes", "images.n_images=240", f"hydra.run.dir={tmp_path}/i",
        "trainer.accelerator=cpu",
    )  # fmt: skip
    assert status is None, status
    assert (tmp_path / "i" / "report" / "index.html").is_file()
