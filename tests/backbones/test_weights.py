"""Weights files: what is read, and what is refused in one sentence."""

import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from saev.backbones import load_backbone
from saev.backbones.weights import read_state_dict
from saev.errors import UserError

SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 1, "num_classes": 5}
VIT = {"name": "vit_tiny_patch16_224", "image_size": 32, "model_kwargs": SMALL, "layer": 0}
CLIP_CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16},
    "text_cfg": {"width": 32, "heads": 1, "layers": 1},
}
HALVES = {"mean": [0.5] * 3, "std": [0.5] * 3}


@pytest.fixture(scope="module")
def vit():
    return load_backbone("timm", weights="random", seed=7, **VIT)


@pytest.fixture
def vit_file(vit, tmp_path) -> Path:
    path = tmp_path / "vit.safetensors"
    save_file(vit.trunk.model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def clip_tensors():
    import open_clip

    torch.manual_seed(3)
    return open_clip.CLIP(**CLIP_CONFIG).state_dict()


def one_sentence(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text and text.endswith(".")
    return text


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".bin"])
def test_a_file_gives_its_weights(vit, tmp_path, suffix) -> None:
    path = tmp_path / f"vit{suffix}"
    state = vit.trunk.model.state_dict()
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, path)
    loaded = load_backbone("timm", weights=str(path), **VIT)
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(loaded(images).logits, vit(images).logits)
    assert loaded.weights["kind"] == "file" and loaded.weights["source"] == str(path)


def test_a_folder_gives_its_one_file(vit_file) -> None:
    loaded = load_backbone("timm", weights=str(vit_file.parent), **VIT)
    alone = load_backbone("timm", weights=str(vit_file), **VIT)
    assert loaded.weights["sha256"] == alone.weights["sha256"]


def test_a_folder_with_two_files_is_ambiguous(vit_file) -> None:
    (vit_file.parent / "other.safetensors").write_bytes(vit_file.read_bytes())
    with pytest.raises(UserError, match="exactly one weights file") as error:
        load_backbone("timm", weights=str(vit_file.parent), **VIT)
    assert "other.safetensors, vit.safetensors" in one_sentence(error)


def test_a_timm_snapshot_brings_its_preprocessing(vit_file) -> None:
    config = {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {"mean": [0.1, 0.2, 0.3]}}
    (vit_file.parent / "config.json").write_text(json.dumps(config))
    assert load_backbone("timm", weights=str(vit_file.parent), **VIT).mean == (0.1, 0.2, 0.3)
    config["architecture"] = "vit_small_patch16_224"
    (vit_file.parent / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="is of timm vit_small_patch16_224"):
        load_backbone("timm", weights=str(vit_file.parent), **VIT)


def test_position_embeddings_follow_the_image_size(vit, vit_file) -> None:
    larger = load_backbone("timm", weights=str(vit_file), **(VIT | {"image_size": 64}))
    assert larger.grid == (4, 4) and larger(torch.randn(1, 3, 64, 64)).logits.shape == (1, 5)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state | {"blocks.0.norm1.weight": torch.ones(33)},
        lambda state: {k: v for k, v in state.items() if k != "blocks.0.norm1.weight"},
        lambda state: state | {"blocks.2.norm1.weight": torch.ones(32)},
    ],
    ids=["shape", "missing", "unexpected"],
)
def test_another_architecture_is_named(vit, tmp_path, change) -> None:
    path = tmp_path / "vit.safetensors"
    save_file(change(vit.trunk.model.state_dict()), path)
    with pytest.raises(UserError, match="of another architecture than timm vit_tiny") as error:
        load_backbone("timm", weights=str(path), **VIT)
    assert "norm1.weight" in one_sentence(error)


def test_clip_weights_do_not_fit_a_timm_vit_nor_the_other_way(
    vit_file, clip_tensors, tmp_path
) -> None:
    path = tmp_path / "clip.safetensors"
    save_file(clip_tensors, path)
    with pytest.raises(UserError, match="another architecture") as error:
        load_backbone("timm", weights=str(path), **VIT)
    one_sentence(error)
    (tmp_path / "tiny.json").write_text(json.dumps(CLIP_CONFIG))
    with pytest.raises(UserError, match="another architecture") as error:
        load_backbone("open_clip", "tiny", str(vit_file), **HALVES)
    one_sentence(error)


@pytest.mark.parametrize("n_bytes", [0, 20, 5000])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_cut_file_is_corrupt(vit, tmp_path, suffix, n_bytes) -> None:
    path = tmp_path / f"vit{suffix}"
    state = vit.trunk.model.state_dict()
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(UserError, match="corrupt") as error:
        load_backbone("timm", weights=str(path), **VIT)
    one_sentence(error)


class Evil:
    def __init__(self, victim: str) -> None:
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (self.victim,)


@pytest.mark.parametrize("how", ["torch.save", "pickle", "pickle named safetensors"])
def test_a_pickle_is_refused_and_not_run(tmp_path, how) -> None:
    victim = tmp_path / "was-here"
    path = tmp_path / ("w.safetensors" if how.endswith("safetensors") else "w.pt")
    content = {"state_dict": Evil(str(victim))}
    if how == "torch.save":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(UserError) as error:
        load_backbone("timm", weights=str(path), **VIT)
    one_sentence(error)
    assert not victim.exists()


def test_torchscript_is_refused(tmp_path) -> None:
    path = tmp_path / "ViT-B-16.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/constants.pkl", b"")
        archive.writestr("model/data.pkl", b"")
    with pytest.raises(UserError, match="TorchScript") as error:
        load_backbone("timm", weights=str(path), **VIT)
    one_sentence(error)


def test_a_missing_file_is_an_error_and_never_random(tmp_path) -> None:
    with pytest.raises(UserError, match="neither a file nor a folder"):
        load_backbone("timm", weights=str(tmp_path / "no.safetensors"), **VIT)
    (tmp_path / "notes.txt").write_text("no weights")
    with pytest.raises(UserError, match="not a weights file"):
        load_backbone("timm", weights=str(tmp_path / "notes.txt"), **VIT)
    with pytest.raises(UserError, match="holds none"):
        load_backbone("timm", weights=str(tmp_path), **VIT)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [torch.ones(2)]])
def test_a_file_without_tensors_by_name_is_no_model(tmp_path, content) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(UserError):
        read_state_dict(tmp_path / "w.pt")


def test_random_weights_come_from_the_seed_and_leave_the_generator(vit) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    again = load_backbone("timm", weights="random", seed=7, **VIT)
    other = load_backbone("timm", weights="random", seed=8, **VIT)
    assert torch.equal(torch.rand(3), expected)
    assert again.weights == vit.weights
    assert other.weights["sha256"] != vit.weights["sha256"]


def test_pretrained_without_a_network_says_what_to_set(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("saev.backbones.hub._hub_answers", lambda: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    for family, name, tag in (
        ("timm", "vit_tiny_patch16_224.augreg_in21k_ft_in1k", None),
        ("open_clip", "ViT-B-16", "openai"),
        ("open_clip", "ViT-B-16", "hf-hub:imageomics/bioclip"),
    ):
        with pytest.raises(UserError, match=r"could not be fetched .* does not answer") as error:
            load_backbone(family, name, pretrained_tag=tag)
        assert "set backbone.weights=FILE or backbone.weights=random." in one_sentence(error)


def test_pretrained_weights_are_what_the_hub_sends(monkeypatch) -> None:
    kwargs = {key: value for key, value in SMALL.items() if key != "num_classes"}
    arguments = VIT | {"model_kwargs": kwargs}
    vit = load_backbone("timm", weights="random", seed=9, **arguments)
    state = vit.trunk.model.state_dict()
    asked = []

    def answer(hub_id, **_options):
        asked.append(hub_id)
        return dict(state)

    monkeypatch.setattr("saev.backbones.hub._hub_answers", lambda: True)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", answer)
    loaded = load_backbone("timm", weights="pretrained", **arguments)
    assert asked == ["timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"]
    assert loaded.weights["kind"] == "pretrained" and loaded.weights["source"] == asked[0]
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(loaded(images).logits, vit(images).logits)
    with pytest.raises(UserError, match="num_classes=5 would leave a random classifier"):
        load_backbone("timm", weights="pretrained", **VIT)


def test_pretrained_that_was_never_published_says_so() -> None:
    with pytest.raises(UserError, match="no pretrained weights for timm vit_base_patch16_gap_224"):
        load_backbone("timm", "vit_base_patch16_gap_224")
