"""A command that only composes, refuses or searches answers without torch and Lightning."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from saev.atlas.atlas import TABLES

VERBS = ("train", "record", "evaluate", "describe", "compare", "intervene", "explore", "convert")
HEAVY = {"torch", "lightning", "torchmetrics", "mlflow", "matplotlib", "open_clip", "timm"}
ROOT = Path(__file__).parents[2]
MOST = 60
"""Files of this project, ``__init__`` apart, that a training on recorded activations starts with: of
dictionaries 9, of training 7, of the tars 9, of the backbone and the images, whose fingerprints name
the recording, 15."""

COUNT = """
import runpy, sys
import lightning

def fit(self, *arguments, **settings):
    ours = [m for m in sys.modules if m.partition(".")[0] in ("saev", "callbacks", "datamodules")]
    print("files:", *sorted(m for m in ours if not hasattr(sys.modules[m], "__path__")))
    raise SystemExit

lightning.Trainer.fit = fit
runpy.run_module("saev.train", run_name="__main__")
"""


def imported(verb: str, *arguments: str, status: int) -> tuple[set[str], str]:
    """The top-level modules that a command imports, and what it says on stdout and, in its last line,
    on stderr."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", f"saev.{verb}", *arguments],
        capture_output=True, text=True, timeout=120, cwd=ROOT,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"saev.{verb} {' '.join(arguments)}: {seconds:.2f} s of processor time")
    assert done.returncode == status, done.stderr[-2000:]
    lines = done.stderr.splitlines()
    names = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    assert "hydra" in names and "saev.cli.command" in names
    return {name.partition(".")[0] for name in names}, done.stdout + lines[-1]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["modle.k=3"], 1, "Key 'modle' is not in struct"),
        (["+experiment=describe_scenes"], 1, "python -m saev.describe +experiment=describe_scenes"),
        (["--cfg", "job"], 0, "activation: topk"),
    ],
)
def test_train_answers_without_torch(arguments: list[str], status: int, words: str) -> None:
    modules, said = imported("train", *arguments, status=status)
    assert not modules & (HEAVY | {"pandas", "numpy", "sklearn", "scipy"})
    assert words in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "status"), [(["--help"], 0), (["--cfg", "job"], 0), (["modle.k=3"], 1)]
)
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_answers_without_torch(verb: str, arguments: list[str], status: int) -> None:
    modules, _ = imported(verb, *arguments, status=status)
    assert not modules & (HEAVY | {"pandas", "numpy"})


@pytest.fixture
def described(tmp_path: Path) -> Path:
    """The run folder of an atlas of two latents, made by hand."""
    folder = tmp_path / "latents"
    folder.mkdir()
    tables = {
        "latents": {"latent": [0, 1], "name": ["tabby", None], "name_confidence": [0.8, 0.0],
                    "rate_image": [0.5, 0.1]},
        "concepts": {"latent": [1], "concept": ["dog"], "split": ["test"], "f1": [0.9]},
        "exemplars": {"latent": [0], "role": ["max"], "rank": [0], "image_id": ["cat/0"]},
        "names": {"latent": [0], "proposer": ["vote"], "rank": [0], "name": ["tabby"],
                  "confidence": [0.8]},
        "coactivation": {"latent": [0], "kind": ["atom"], "rank": [0], "neighbour": [1]},
    }  # fmt: skip
    for name in TABLES:
        pd.DataFrame(tables[name]).to_parquet(folder / f"{name}.parquet")
    (folder / "images.json").write_text(json.dumps([{"image_id": "cat/0"}]))
    (folder / "atlas.json").write_text(json.dumps({"grid": [2, 2]}))
    return tmp_path


def test_an_atlas_is_searched_without_torch(described: Path) -> None:
    arguments = (f"atlas_dir={described}", "query=tabby", f"hydra.run.dir={described / 'run'}")
    modules, said = imported("describe", *arguments, status=0)
    assert not modules & HEAVY
    assert "'tabby' in names and concepts: 1 latents" in said
    assert "cat/0" in said


@pytest.mark.slow
def test_training_starts_with_what_it_needs(tmp_path: Path) -> None:
    """Evaluation, pages, figures, heads and every other verb's rooms wait until they are used."""
    command = [
        sys.executable, "-c", COUNT, "+experiment=smoke", "images.n_images=16", "logger=none",
        "trainer.accelerator=cpu", "record.num_workers=0", f"paths.outputs={tmp_path}",
    ]  # fmt: skip
    for _ in range(2):  # the second finds the recording
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
        assert done.returncode == 0, done.stderr[-2000:]
    (line,) = [one for one in done.stdout.splitlines() if one.startswith("files:")]
    files = line.split()[1:]
    rooms = {".".join(name.split(".")[:2]) for name in files if name.startswith("saev.")}
    unused = {"evaluation", "atlas", "comparison", "intervention", "concepts", "codes", "editing"}
    assert rooms.isdisjoint(f"saev.{room}" for room in unused | {"heads", "pages", "stats"})
    print(f"{len(files)} files at the start of training")
    assert len(files) <= MOST, files
