"""Runs behind TensorBoard and Weights & Biases: what arrives, and what is said where nothing can.

The tests of the real packages run where they are installed: ``pip install -e .[tensorboard,wandb]``.
"""

import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning.pytorch.loggers.logger import DummyLogger
from PIL import Image

from saev.defaults import CONF_DIR
from saev.errors import UserError
from saev.files import write_table
from saev.tracking import Tracking, tensorboard_run, wandb_run
from saev.tracking.logger_run import LoggerTracking, artifact_files, series_of
from saev.tracking.tensorboard_run import TensorBoardTracking, as_markdown
from saev.tracking.wandb_run import WandbTracking

VERBS = ("train", "record", "evaluate", "describe", "compare", "intervene")


def composed(verb: str, *overrides: str):
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose(verb, [f"paths.outputs={overrides[0]}", *overrides[1:]]).logger


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch):
    """Either package looks installed."""
    import importlib.util

    monkeypatch.setattr(
        "saev.tracking.logger_run.find_spec", lambda name: importlib.util.find_spec("json")
    )


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_has_them(verb: str, tmp_path: Path, installed) -> None:
    board = instantiate(composed(verb, str(tmp_path), "logger=tensorboard"))
    assert isinstance(board, TensorBoardTracking)
    assert board.save_dir == str(tmp_path / "tensorboard")
    given = composed(verb, str(tmp_path), "logger=wandb", "logger.mode=offline")
    run = instantiate(given)
    assert isinstance(run, WandbTracking) and isinstance(run, Tracking)
    assert (run.mode, run.project, run.entity) == ("offline", "saev", None)
    assert not list(tmp_path.iterdir()), "nothing is opened before the start"


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_without_the_package_a_sentence_says_how_to_get_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    node = composed("train", str(tmp_path), f"logger={name}")
    with pytest.raises(Exception) as caught:
        instantiate(node)
    cause = caught.value.__cause__ or caught.value
    assert isinstance(cause, UserError)
    assert str(cause).startswith(f"logger={name} needs the package {name}, which is not installed")
    assert f"saev-lightning[{name}]" in str(cause)
    monkeypatch.delitem(sys.modules, name)
    (tmp_path / name).mkdir()  # as W&B leaves one where it ran
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(Exception, match="is not installed"):
        instantiate(node)


def test_settings_of_wandb_are_checked(installed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert WandbTracking("saev", "outputs").mode == "offline"
    assert WandbTracking("saev", "outputs", mode="online").mode == "online"
    with pytest.raises(ValueError, match=r"logger\.mode must be one of online"):
        WandbTracking("saev", "outputs", mode="sometimes")
    with pytest.raises(ValueError, match=r"logger\.project"):
        WandbTracking("", "outputs")
    with pytest.raises(ValueError, match=r"logger\.save_dir"):
        WandbTracking("saev", "")


class Kept(LoggerTracking):
    """Keeps what it is given; fails where it is told to."""

    package = "json"

    def __init__(self) -> None:
        super().__init__("somewhere")
        self.seen: list[tuple] = []
        self.fails = False

    def _open(self, run_name, tags, params, run_id):
        return self, run_name  # type: ignore[return-value]

    def log_metrics_now(self, metrics, step) -> None:
        self.seen.append((metrics, step))

    def _take(self, file, name) -> None:
        if self.fails:
            raise OSError("the disk is full")
        if name == "broken.png":
            raise ValueError("no picture")
        self.seen.append(("file", name))

    def _take_tags(self, tags) -> None:
        self.seen.append(("tags", tags))

    def _end(self, status) -> None:
        self.seen.append(("end", status))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A run folder with a file of each sort that commands leave."""
    folder = tmp_path / "run"
    (folder / "figures/firing").mkdir(parents=True)
    (folder / "sae").mkdir()
    for name in ("figures/latents_random.png", "figures/firing/step-0000002.png"):
        Image.new("RGB", (4, 3), (255, 0, 0)).save(folder / name)
    (folder / "metrics.json").write_text('{"val/l0": 8.0}\n')
    (folder / "sae/weights.safetensors").write_bytes(b"weights")
    frame = pd.DataFrame({"latent": range(30), "name": [None, "a | b", "c"] * 10, "proposer": None,
                          "f1": [float("nan"), 0.5, 1.0] * 10, "parts": [[1, 2]] * 30})  # fmt: skip
    write_table(frame, folder / "latents.parquet")
    return folder


def log_everything(tracking: Tracking, folder: Path) -> None:
    """What a training run sends, in its order."""
    logger = tracking.lightning_logger()
    assert logger is not None
    logger.log_metrics({"train/loss": 1.5}, step=1)
    logger.log_metrics({"train/loss": 0.5, "val/l0": 9.0}, step=2)
    tracking.log_artifact(folder / "figures/firing/step-0000002.png", "figures/firing")
    logger.finalize("success")  # the fit ends, the run does not
    tracking.log_artifact(folder / "sae", "sae")
    tracking.log_metrics({"val/l0": 8.0}, step=2)
    tracking.log_artifact(folder / "metrics.json")
    tracking.log_artifact(folder / "figures/latents_random.png", "figures")
    tracking.log_artifact(folder / "latents.parquet", "latents")
    tracking.set_tags({"saev.sha256.sae": "ff"})
    tracking.finish("FINISHED")


def test_what_cannot_be_taken_is_said_once_and_left_in_the_run_folder(
    files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Kept()
    kept.start("first", {"saev.run_dir": str(files)}, {})
    kept.log_artifact(files / "sae", "sae")
    kept.log_artifact(files / "missing")
    (files / "figures/broken.png").write_bytes(b"")
    kept.log_artifact(files / "figures/broken.png")
    kept.fails = True
    kept.log_artifact(files / "metrics.json")
    kept.set_tags({"a": "b"})
    kept.finish("FAILED")
    kept.log_artifact(files / "metrics.json")  # after the end: nothing
    assert kept.seen == [("file", "sae/weights.safetensors")]
    assert "refused" in caplog.text and "missing is not there" in caplog.text
    assert "logger=json cannot show broken.png (no picture)" in caplog.text
    assert caplog.text.count("the disk is full") == 1
    left = (files / "untracked.jsonl").read_text().splitlines()
    assert len(left) == 3 and "metrics.json" in left[0] and '"FAILED"' in left[2]


def test_only_the_main_process_tracks(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    kept = Kept()
    kept.start("rank one", {}, {})
    kept.log_metrics({"a": 1.0})
    kept.log_artifact(files / "sae")
    kept.finish()
    assert kept.seen == [] and kept.run_id is None
    assert isinstance(kept.lightning_logger(), DummyLogger)


def test_files_are_named_as_mlflow_names_them(files: Path) -> None:
    assert [name for _, name in artifact_files(files / "sae", "sae")] == ["sae/weights.safetensors"]
    assert [name for _, name in artifact_files(files / "metrics.json", None)] == ["metrics.json"]
    assert series_of("figures/firing/step-0000200.png") == ("figures/firing", 200)
    assert series_of("figures/a.b.png") == ("figures/a.b", 0)
    assert series_of("metrics.json") == ("metrics", 0)


def test_a_table_as_text() -> None:
    frame = pd.DataFrame({"latent": [1], "name": ["a | b\nc"]})
    assert as_markdown(frame) == "| latent | name |\n| --- | --- |\n| 1 | a / b c |"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of protobuf and numpy, in tensorboard
def test_tensorboard_shows_curves_figures_texts_and_tables(files: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    root = tmp_path / "boards"
    runs = [TensorBoardTracking(str(root)) for _ in range(2)]
    for tracking in runs:
        tracking.start("train micro/topk", {"saev.verb": "train"}, {"model": {"k": 8}, "seed": 0})
        assert tracking.where == f"tensorboard --logdir {root}"
    assert [one.run_id for one in runs] == ["train-micro-topk", "train-micro-topk-2"]
    log_everything(runs[0], files)
    runs[1].finish("KILLED")
    found = EventAccumulator(str(root / "train-micro-topk")).Reload()
    assert [(e.step, e.value) for e in found.Scalars("train/loss")] == [(1, 1.5), (2, 0.5)]
    assert {e.value for e in found.Scalars("val/l0")} == {9.0, 8.0}
    tags = found.Tags()
    assert set(tags["images"]) == {"figures/firing", "figures/latents_random"}
    assert [e.step for e in found.Images("figures/firing")] == [2]

    def text(name: str) -> str:
        return found.Tensors(f"{name}/text_summary")[0].tensor_proto.string_val[0].decode()

    assert '"val/l0": 8.0' in text("metrics") and text("status") == "FINISHED"
    assert (
        "| 1 | a / b | None | 0.5 | [1 2] |" in text("latents/latents")
        and text("latents/latents").count("\n") == 21
    )
    assert text("tags/saev.verb") == "train" and text("tags/saev.sha256.sae") == "ff"
    assert "weights.safetensors" in text("files")
    assert "model:\n  k: 8" in (root / "train-micro-topk/hparams.yaml").read_text()
    from tensorboard.plugins.hparams.metadata import parse_session_start_info_plugin_data as parse

    started = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert parse(started).hparams["model.k"].number_value == 8


def test_wandb_offline_keeps_a_run_for_later(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    tracking = WandbTracking("saev", str(tmp_path / "outputs"), mode="offline")
    tracking.start("train-micro", {"saev.verb": "train"}, {"model": {"k": 8}})
    assert wandb.run is None, "members of a sweep share a process"
    run = tracking._run
    logged: list[dict] = []
    log = run.log
    monkeypatch.setattr(run, "log", lambda data: (logged.append(data), log(data)))
    log_everything(tracking, files)
    assert not [r.message for r in caplog.records if r.name.startswith("saev")]
    assert tracking.where is not None and tracking.where.startswith("wandb sync ")
    (file,) = Path(tracking.where.split()[-1]).glob("run-*.wandb")
    until = time.monotonic() + 20
    while file.stat().st_size <= 1000 and time.monotonic() < until:
        time.sleep(0.1)  # W&B's own process writes it
    assert file.stat().st_size > 1000
    assert run.config["model"] == {"k": 8} and run.config["tags"]["saev.sha256.sae"] == "ff"
    assert {"train/loss": 1.5, "trainer/global_step": 1} in logged
    firing = next(one for one in logged if "figures/firing" in one)
    assert isinstance(firing["figures/firing"], wandb.Image) and firing["trainer/global_step"] == 2
    table = next(one["latents/latents"] for one in logged if "latents/latents" in one)
    assert len(table.data) == 30 and table.data[0][:4] == [0, None, None, None]
    names = set(tracking._artifact.manifest.entries)
    assert names == {
        "figures/firing/step-0000002.png", "sae/weights.safetensors", "metrics.json",
        "figures/latents_random.png", "latents/latents.parquet",
    }  # fmt: skip


def test_a_run_that_wandb_does_not_take_ends_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")

    def refuse(**given):
        raise wandb.Error("api_key not configured (no-tty)")

    monkeypatch.setattr(wandb, "init", refuse)
    tracking = WandbTracking("saev", str(tmp_path), mode="online")
    with pytest.raises(UserError, match=r"api_key not configured .*logger.mode=offline"):
        tracking.start("first", {}, {})


def test_the_modules_are_light() -> None:
    """A missing package is said by us, and Lightning's loggers load only where one is opened."""
    for module in (tensorboard_run, wandb_run):
        assert not {"tensorboard", "wandb", "lightning", "L"} & set(vars(module))
