"""Every file in conf/experiment is a run that works, here for two steps on drawn scenes."""

from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from saev.cli.refusals import refuse_foreign_experiments, verb_of
from saev.comparison.members import CompareSettings
from saev.errors import UserError
from tests.fakes.commands import Run

VERBS = ("train", "record", "evaluate", "describe", "compare", "intervene")
CONF = Path(__file__).parents[2] / "conf"
EXPERIMENTS = {
    path.stem: yaml.safe_load(path.read_text())
    for path in sorted((CONF / "experiment").glob("*.yaml"))
}


def trains_an_sae(name: str) -> bool:
    """Whether it is a run of ``saev.train`` that leaves a dictionary."""
    text = (CONF / "experiment" / f"{name}.yaml").read_text()
    return verb_of(name) == "train" and "/task" not in text


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_header_says_what_one_needs(name: str) -> None:
    text = (CONF / "experiment" / f"{name}.yaml").read_text()
    for heading in ("# Command:", "# Purpose:", "# Hardware:", "# Expect:"):
        assert heading in text, f"{name}.yaml lacks {heading}"
    assert f"+experiment={name}" in text
    assert verb_of(name) in VERBS


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_of_another_verb_is_refused(name: str, verb: str) -> None:
    owner = verb_of(name)
    line = ["seed=1", f"+experiment={name}", "images=folder"]
    if verb == owner or (verb, owner) == ("record", "train"):
        refuse_foreign_experiments(verb, line)
        return
    with pytest.raises(UserError) as refused:
        refuse_foreign_experiments(verb, line)
    assert str(refused.value).endswith(f"python -m saev.{owner} +experiment={name}")


@pytest.mark.parametrize(
    "argument",
    ["+experiment=smoke,describe_scenes", "+experiment=glob(*_scenes)", "experiment=describe_scenes",
     "+experiment='describe_scenes'", "+experiment=[smoke,describe_scenes]"],
)  # fmt: skip
def test_sweeps_patterns_and_lists_are_looked_through(argument: str) -> None:
    with pytest.raises(UserError, match="experiment=describe_scenes belongs to another command"):
        refuse_foreign_experiments("train", ["-m", argument])


@pytest.mark.parametrize(
    "argument",
    ["+experiment=mine", "+experiment=[", "+experiment=glob(vit*)", "name=describe_scenes"],
)
def test_what_no_other_verb_owns_is_left_to_hydra(argument: str) -> None:
    refuse_foreign_experiments("train", [argument])


def test_a_foreign_experiment_is_refused_before_anything_runs(run: Run, tmp_path: Path) -> None:
    status = run("train", "+experiment=describe_scenes")
    assert isinstance(status, str) and "python -m saev.describe" in status
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name.startswith("compare_")])
def test_comparison_composes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAEV_REAL_DATA", "/data")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("compare", overrides=[f"+experiment={name}"], return_hydra_config=False)
    assert cfg.name == name
    assert CompareSettings(**cfg.comparison).min_power == 0.8
    assert cfg.images._target_ == "datamodules.images.FolderImages"
    assert cfg.names is None or len(cfg.names) == len(cfg.saes)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:No zero-shot head")  # SigLIP's tokenizer is an optional package
@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if trains_an_sae(name)])
def test_two_steps(name: str, run: Run, tmp_path: Path, on_photos: tuple[str, ...]) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=[f"+experiment={name}"], return_hydra_config=False)
    embedded = cfg.backbone.weights == "embedded"
    weights = () if embedded else ("backbone.weights=random",)
    folders = cfg.images.get("roots") is not None
    images = on_photos if folders else ("images=scenes", "images.n_images=6")
    status = run(
        "train", f"+experiment={name}", *weights, *images,
        "record.images_per_shard=3", "record.batch_size=3",
        "model.d_sae=256", "data.batch_size=64", "data.reservoir_tokens=512",
        "trainer.accelerator=cpu", "trainer.max_steps=2",
        "trainer.val_check_interval=1", "evaluation.batch_size=2",
        f"hydra.run.dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert status is None
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"sae", "metrics.json", "checkpoints", "config.yaml", "figures"} <= names
