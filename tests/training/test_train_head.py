"""Heads from the config to the folder, and their scores clean and under edits."""

import json
import math
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from datamodules.images import FolderImages, ScenesImages
from saev.backbones import Backbone, load_backbone
from saev.errors import UserError
from saev.evaluation.heads import evaluate_head, evaluate_recorded, head_fidelity
from saev.heads import load_head
from saev.sae import SAEConfig, SparseAutoencoder
from saev.train import train

N_MEMBERS = {"seg_scenes": 12, "probe_scenes": 16}
CONF = Path(__file__).parents[2] / "conf"


def composed(out: Path, *overrides: str) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(
            "train",
            overrides=[
                "logger=none", "images.n_images=40",
                "trainer.accelerator=cpu", "trainer.max_steps=40", "trainer.val_check_interval=20",
                "callbacks.progress=null", f"paths.outputs={out}", f"paths.run={out / 'run'}",
                *overrides,
            ],
        )  # fmt: skip


@pytest.fixture(
    scope="module", params=[pytest.param("seg_scenes", marks=pytest.mark.slow), "probe_scenes"]
)
def trained(request, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param)
    metrics = train(composed(out, f"+experiment={request.param}", "images.n_images=40"))
    return request.param, out, metrics


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("timm", "micro", "embedded")


@pytest.fixture(scope="module")
def source() -> ScenesImages:
    return ScenesImages(40)


def test_leaves_a_head_and_its_numbers(trained) -> None:
    name, out, metrics = trained
    run = out / "run"
    assert json.loads((run / "metrics.json").read_text()) == metrics
    assert (run / "config.yaml").is_file()
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert sum(key.startswith("weights.") for key in state) == 2 * N_MEMBERS[name]
    head = load_head(run / "head")
    assert head.kind == {"s": "segmentation", "p": "classification"}[name[0]]
    assert head.recipe["n_steps"] == 40 and head.recipe["images"]["n_images"] == 40
    key = "test/patch_accuracy" if name == "seg_scenes" else "test/accuracy"
    assert metrics[key] > 0.6  # chance is below
    assert all(math.isfinite(value) for value in metrics.values())


def test_recorded_and_live_scores_agree(trained, backbone: Backbone, source: ScenesImages) -> None:
    _, out, metrics = trained
    head = load_head(out / "run" / "head")
    live = evaluate_head(head, backbone, source)
    folder = out / "activations" / head.recipe["features_id"]
    cached = evaluate_recorded(head, folder, backbone, source, "heldout")
    for key, value in live.items():
        assert cached[key] == pytest.approx(value, abs=5e-3, nan_ok=True), key  # float16 tars
        if not math.isnan(value):
            assert metrics[f"test/{key}"] == cached[key]
    assert evaluate_head(head, backbone, source, "train").keys() == live.keys()


def test_identity_changes_nothing_and_an_edit_does(trained, backbone, source) -> None:
    head = load_head(trained[1] / "run" / "head")
    clean = evaluate_head(head, backbone, source)
    same = evaluate_head(head, backbone, source, edit=lambda acts: acts, layer=backbone.layer)
    assert same == pytest.approx(clean, nan_ok=True, abs=0)
    zeroed = evaluate_head(head, backbone, source, edit=torch.zeros_like, layer=2)
    key = "patch_accuracy" if head.kind == "segmentation" else "accuracy"
    assert zeroed[key] < clean[key]
    with pytest.raises(UserError, match="layer="):
        evaluate_head(head, backbone, source, edit=torch.zeros_like)


def test_fidelity_has_every_arm(trained, backbone: Backbone, source: ScenesImages) -> None:
    head = load_head(trained[1] / "run" / "head")
    sae = SparseAutoencoder(SAEConfig(backbone.width, 256, "topk", 8))
    sae.cfg = SAEConfig(
        backbone.width, 256, "topk", 8, layer=backbone.layer, tokens={"which": "patch"}
    )
    metrics = head_fidelity(sae, head, backbone, source, n_images=6)
    name = "patch_accuracy" if head.kind == "segmentation" else "accuracy"
    for arm in ("clean", "reconstructed", "mean_ablated", "zero_ablated", "untrained"):
        assert {f"fidelity/{key}/{arm}" for key in ("kl", "agreement", name)} <= metrics.keys()
    assert metrics["fidelity/kl/clean"] == 0 and metrics["fidelity/agreement/clean"] == 1
    assert metrics["fidelity/kl/zero_ablated"] > 0
    assert not any(key.count("/") > 2 for key in metrics)


def test_features_are_recorded_once(trained) -> None:
    name, out, metrics = trained
    tars = {path: path.stat().st_mtime_ns for path in (out / "activations").glob("*/*.tar")}
    again = train(composed(out, f"+experiment={name}", f"paths.run={out / 'again'}"))
    assert again == metrics  # and the same seed gives the same head
    assert tars == {p: p.stat().st_mtime_ns for p in (out / "activations").glob("*/*.tar")}
    one, two = (load_head(out / run / "head") for run in ("run", "again"))
    assert torch.equal(one.weight, two.weight) and torch.equal(one.bias, two.bias)


def test_refuses_another_backbone_and_other_images(trained, backbone, source, tmp_path) -> None:
    head = load_head(trained[1] / "run" / "head")
    other = load_backbone("timm", "micro", "random", seed=5)
    with pytest.raises(UserError, match="head belongs to"):
        evaluate_head(head, other, source)
    from PIL import Image

    (tmp_path / "train" / "plane").mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(tmp_path / "train" / "plane" / "0.png")
    with pytest.raises(UserError, match=r"none of the classes|has no masks"):
        evaluate_head(head, backbone, FolderImages([str(tmp_path)]), "train")
    with pytest.raises(UserError, match="no heldout images"):
        evaluate_head(head, backbone, ScenesImages(5, val_fraction=0.0))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["ckpt_path=x.ckpt"], "does not resume"),
        (["images.val_fraction=0.0"], "no held-out images"),
        (["model.features=tokens"], "features='tokens' is not one of"),
        (
            ["trainer.devices=2", "+trainer.strategy=ddp"],
            "one device and trainer.devices asks for 2",
        ),
    ],
)
def test_refuses_before_recording(overrides: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        train(composed(tmp_path, "+experiment=probe_scenes", *overrides))
    assert not (tmp_path / "activations").exists()


def test_class_rows_need_no_training(tmp_path: Path, backbone: Backbone) -> None:
    cfg = composed(
        tmp_path, "+experiment=probe_scenes", "task=class_rows", "model=class_rows",
        "model.rows=classifier",
    )  # fmt: skip
    metrics = train(cfg)
    head = load_head(tmp_path / "run" / "head")
    assert head.kind == "class_rows" and head.class_names == backbone.class_names
    assert 0 <= metrics["test/accuracy"] <= 1 and "test/ece" in metrics


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["probe_cub", "seg_ade20k"])
def test_two_steps_of_the_paper_s_heads(experiment: str, tmp_path: Path) -> None:
    metrics = train(
        composed(
            tmp_path, f"+experiment={experiment}", "images=scenes", "backbone.weights=random",
            "images.n_images=8", "trainer.max_steps=2", "trainer.val_check_interval=1",
            "record.batch_size=4", "features.batch_size=64",
        )
    )  # fmt: skip
    assert "test/accuracy" in metrics or "test/miou" in metrics
    assert load_head(tmp_path / "run" / "head").class_names
