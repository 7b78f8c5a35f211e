"""A sweep on a real command line, and the choice among its members: page, registry, tags."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from saev.sae import SparseAutoencoder
from tests.fakes.commands import TINY, Run, assert_sentence

pytestmark = pytest.mark.slow

TRAINING = (
    "images.n_images=40",
    "trainer.max_steps=60",
    "evaluation.figures=true",
)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Where a finished sweep over k lies, and the id that it printed."""
    folder = tmp_path_factory.mktemp("outputs")
    shared = [
        o for o in TINY if not o.startswith(("model.k", *(t.split("=")[0] for t in TRAINING)))
    ]
    done = subprocess.run(
        [
            sys.executable, "-m", "saev.train", "-m", f"paths.outputs={folder}",
            f"hydra.sweep.dir={folder}/sweep", *shared, *TRAINING, "model.k=2,4,8,16",
        ],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (line,) = [one for one in done.stdout.splitlines() if "saev.evaluate sweep=" in one]
    return folder, line.split("sweep=")[1].strip()


def client(folder: Path):
    from saev.tracking.mlflow_store import client

    return client(f"sqlite:///{folder / 'mlflow.db'}")


def choose(run: Run, folder: Path, out: Path, *overrides: str) -> str | int | None:
    uri = f"logger.tracking_uri=sqlite:///{folder / 'mlflow.db'}"
    return run("evaluate", uri, f"hydra.run.dir={out}", *overrides)


def test_from_a_sweep_to_registered_models(
    run: Run, outputs: tuple[Path, str], tmp_path: Path
) -> None:
    folder, sweep = outputs
    assert choose(run, folder, tmp_path / "run", f"sweep={sweep}") is None
    picks = json.loads((tmp_path / "run" / "choice" / "picks.json").read_text())
    assert len(picks) == 3
    assert picks[0]["label"] == "model.k=2" and picks[-1]["label"] == "model.k=16"
    page = (tmp_path / "run" / "choice" / "index.html").read_text()
    assert all(f"model.k={k}" in page for k in (2, 4, 8, 16))
    store = client(folder)
    for pick in picks:
        registered = pick["registered"]
        version = store.get_model_version_by_alias(registered["name"], registered["alias"])
        assert version.description == pick["reason"]
        assert version.run_id == pick["run_id"]
        assert version.tags["saev.member"] == pick["label"]
        assert store.get_run(pick["run_id"]).data.tags["saev.pick.reason"] == pick["reason"]
        copy = Path(store.download_artifacts(pick["run_id"], "sae", str(tmp_path)))
        assert f"version {version.version}" in (copy / "README.md").read_text().splitlines()[0]
        sae = SparseAutoencoder.from_pretrained(copy)
        assert sae.cfg.k == int(pick["l0"])
    tags = store.get_run(sweep).data.tags
    assert tags["saev.choice.picks"] == ", ".join(pick["label"] for pick in picks)
    files = {entry.path for entry in store.list_artifacts(tags["saev.choice.run_id"], "choice")}
    assert {"choice/index.html", "choice/pareto.png", "choice/picks.json"} <= files
    # once more: the same versions, and the members are the same four
    assert choose(run, folder, tmp_path / "again", f"sweep={sweep}") is None
    again = json.loads((tmp_path / "again" / "choice" / "picks.json").read_text())
    assert [one["registered"] for one in again] == [one["registered"] for one in picks]


def test_the_folder_of_the_sweep_says_the_same(
    run: Run, outputs: tuple[Path, str], tmp_path: Path
) -> None:
    folder, _ = outputs
    given = f"sweep={folder / 'sweep'}"
    assert choose(run, folder, tmp_path / "run", given, "choice.n_picks=2") is None
    picks = json.loads((tmp_path / "run" / "choice" / "picks.json").read_text())
    assert [pick["label"] for pick in picks] == ["model.k=2", "model.k=16"]
    assert all(pick["registered"] and pick["run_id"] for pick in picks)


def test_a_folder_that_the_store_does_not_know_is_copied_into_the_registry(
    run: Run, outputs: tuple[Path, str], tmp_path: Path
) -> None:
    folder, _ = outputs
    out = tmp_path / "run"
    status = run(
        "evaluate", "logger=mlflow", f"hydra.run.dir={out}", f"sweep={folder / 'sweep'}",
        "choice.n_picks=1", "choice.model_name=mine",
    )  # fmt: skip
    assert status is None
    (pick,) = json.loads((out / "choice" / "picks.json").read_text())
    assert pick["run_id"] is None
    store = client(tmp_path / "outputs")
    version = store.get_model_version_by_alias("mine", pick["registered"]["alias"])
    assert version.run_id is not None
    files = {e.path for e in store.list_artifacts(version.run_id, "choice/picks/1")}
    names = {Path(file).name for file in files}
    assert {"README.md", "config.json", "weights.safetensors"} <= names


def test_sweeps_that_are_none(run: Run, outputs: tuple[Path, str], tmp_path: Path) -> None:
    folder, sweep = outputs
    assert_sentence(choose(run, folder, tmp_path, "sweep=feedbeef"), "feedbeef", "printed")
    store = client(folder)
    experiment = store.get_experiment_by_name("saev").experiment_id
    member = next(
        one for one in store.search_runs([experiment])
        if one.data.tags.get("mlflow.parentRunId") == sweep
    )  # fmt: skip
    status = choose(run, folder, tmp_path, f"sweep={member.info.run_id}")
    assert_sentence(status, "no members", f"sweep={sweep}")
    both = choose(run, folder, tmp_path, f"sweep={sweep}", "sae=x")
    assert_sentence(both, "give one of them")
    assert_sentence(choose(run, folder, tmp_path), "sae=DIR", "sweep=ID")
    assert_sentence(
        choose(run, folder, tmp_path, f"sweep={sweep}", "choice.n_picks=0"), "n_picks", "0"
    )
