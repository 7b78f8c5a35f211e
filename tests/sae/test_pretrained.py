import json
import pickle
from pathlib import Path

import pytest
import torch

from saev.errors import UserError
from saev.sae import SAEConfig, SparseAutoencoder
from saev.sae.pretrained import CONFIG_NAME, WEIGHTS_NAME


def make(activation: str = "topk", k: int | None = 3) -> SparseAutoencoder:
    cfg = SAEConfig(6, 24, activation, k, layer=2, tokens={"which": "patch"}, recipe={"lr": 0.1})
    sae = SparseAutoencoder(cfg, torch.Generator().manual_seed(0))
    sae.set_statistics(torch.randn(6), 0.123456789, 77.7)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return sae


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make().save_pretrained(tmp_path / "sae")


@pytest.mark.parametrize(("activation", "k"), [("topk", 3), ("relu", None)])
def test_codes_are_the_same_to_the_bit(tmp_path: Path, activation: str, k: int | None) -> None:
    sae = make(activation, k)
    loaded = SparseAutoencoder.from_pretrained(sae.save_pretrained(tmp_path))
    x = torch.randn(50, 6)
    assert torch.equal(loaded.encode(x), sae.encode(x))
    assert torch.equal(loaded.reconstruct(x), sae.reconstruct(x))
    assert loaded.cfg == sae.cfg
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())


def test_the_folder_holds_two_files_and_is_written_over(folder: Path) -> None:
    make("relu", None).save_pretrained(folder)
    assert {f.name for f in folder.iterdir()} == {CONFIG_NAME, WEIGHTS_NAME}
    assert SparseAutoencoder.from_pretrained(folder).cfg.activation == "relu"


def test_double_precision_survives(tmp_path: Path) -> None:
    sae = make().double()
    loaded = SparseAutoencoder.from_pretrained(sae.save_pretrained(tmp_path))
    assert loaded.W_enc.dtype == torch.float64
    assert torch.equal(loaded.W_enc, sae.W_enc)


def refused(source: Path | str, part: str) -> None:
    with pytest.raises(UserError, match=part) as caught:
        SparseAutoencoder.from_pretrained(source)
    assert "\n" not in str(caught.value)


def test_nothing_there(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "does not exist")
    refused("./nowhere", "does not exist")
    refused("nowhere", "does not exist")


def test_an_empty_folder(tmp_path: Path) -> None:
    refused(tmp_path, f"holds no {CONFIG_NAME}")


def test_a_file_instead_of_the_folder(folder: Path) -> None:
    refused(folder / CONFIG_NAME, "is a file")


def test_weights_missing(folder: Path) -> None:
    (folder / WEIGHTS_NAME).unlink()
    refused(folder, f"holds no {WEIGHTS_NAME}")


@pytest.mark.parametrize("name", ["sae.pt", "sae.pkl", "model.ckpt", "model.bin"])
def test_a_pickle_is_not_opened(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(pickle.dumps({"W_enc": 1}))
    refused(tmp_path / name, "looks like a pickle")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not safetensors at all"])
def test_damaged_weights(folder: Path, content: bytes) -> None:
    (folder / WEIGHTS_NAME).write_bytes(content)
    refused(folder, "is damaged")


def test_weights_cut_in_the_middle(folder: Path) -> None:
    whole = (folder / WEIGHTS_NAME).read_bytes()
    (folder / WEIGHTS_NAME).write_bytes(whole[: len(whole) // 2])
    refused(folder, "is damaged")


@pytest.mark.parametrize("content", ["{", "[1, 2]", "\x00"])
def test_damaged_config(folder: Path, content: str) -> None:
    (folder / CONFIG_NAME).write_text(content)
    refused(folder, "JSON")


def test_a_newer_format(folder: Path) -> None:
    edit(folder, format_version=2)
    refused(folder, "format version 2")


def test_shapes_that_contradict_the_config(folder: Path) -> None:
    edit(folder, d_model=7)
    refused(folder, "do not belong together")


def test_a_tensor_missing(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / WEIGHTS_NAME)
    del tensors["b_enc"]
    save_file(tensors, folder / WEIGHTS_NAME)
    refused(folder, "b_enc is missing")


def test_the_normalisation_is_numbers_in_the_config(folder: Path) -> None:
    from safetensors.torch import load_file

    sae = make()
    sae.set_statistics(torch.randn(6) * 1e-3, 1 / 3, None)
    sae.save_pretrained(folder)
    assert set(load_file(folder / WEIGHTS_NAME)) == {"W_enc", "b_enc", "W_dec", "b_dec"}
    written = json.loads((folder / CONFIG_NAME).read_text())["normalization"]
    assert torch.equal(torch.tensor(written["mean"]), sae.mean)
    loaded = SparseAutoencoder.from_pretrained(folder)
    assert torch.equal(loaded.mean, sae.mean) and torch.equal(loaded.scale, sae.scale)


@pytest.mark.parametrize(
    "value", [None, [1.0], {"mean": [0.0] * 6}, {"mean": ["a"] * 6, "scale": 1.0}]
)
def test_a_normalisation_that_is_none(folder: Path, value: object) -> None:
    edit(folder, normalization=value)
    refused(folder, "no readable normalization")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e31, True, 10**400, "1"])
@pytest.mark.parametrize("key", ["mean", "scale"])
def test_a_normalisation_that_is_not_finite(folder: Path, key: str, bad: object) -> None:
    found = {"mean": [0.0] * 6, "scale": 1.0} | {key: [bad] * 6 if key == "mean" else bad}
    edit(folder, normalization=found)
    refused(folder, f"no readable normalization with mean and scale .normalization.{key}")


@pytest.mark.parametrize("scale", [0, -1.0])
def test_a_scale_that_is_not_positive(folder: Path, scale: float) -> None:
    edit(folder, normalization={"mean": [0.0] * 6, "scale": scale})
    refused(folder, "no readable normalization")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(folder: Path, bad: float) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / WEIGHTS_NAME)
    tensors["W_dec"][3, 2] = bad
    save_file(tensors, folder / WEIGHTS_NAME)
    refused(folder, "W_dec that are not finite")


@pytest.mark.parametrize("dtype", [torch.int32, torch.complex64, torch.bool])
def test_weights_that_are_no_floats(folder: Path, dtype: torch.dtype) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / WEIGHTS_NAME)
    save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, folder / WEIGHTS_NAME)
    refused(folder, "not floats")


def test_no_memory_is_taken_for_a_size_that_the_weights_do_not_have(folder: Path) -> None:
    edit(folder, d_sae=10**9)  # 24 GB for the encoder of 6 dimensions
    refused(folder, "W_enc of shape .24, 6. where config.json says .1000000000, 6.")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"layer": "4"}, "layer is '4' where a whole number"),
        ({"layer": -1}, "layer is -1"),
        ({"d_sae": 24.0}, "d_sae is 24.0"),
        ({"d_model": True}, "d_model is True"),
        ({"k": "3"}, "k is '3'"),
        ({"max_norm": float("nan")}, "max_norm is nan"),
        ({"subtract_b_dec": 1}, "subtract_b_dec is 1"),
        ({"tokens": {}}, "tokens.which is missing"),
        ({"tokens": {"which": "words"}}, "tokens.which is 'words' where one of patch"),
        ({"backbone": []}, "backbone is"),
        ({"backbone": {"weights": None}}, "backbone.weights is None"),
        ({"backbone": {"weights": {"sha256": 5}}}, "backbone.weights.sha256 is 5"),
        ({"recipe": []}, "recipe is"),
        ({"recipe": {"a": float("inf")}}, "recipe.a is inf"),
        ({"manifest_id": {}}, "manifest_id is"),
        ({"activation": ["topk"]}, "activation is"),
    ],
)
def test_every_field_has_its_type_and_range(folder: Path, change: dict, part: str) -> None:
    edit(folder, **change)
    refused(folder, part)


def test_json_that_is_nested_without_end(folder: Path) -> None:
    (folder / CONFIG_NAME).write_text("[" * 200_000)
    refused(folder, "nested too deeply")
    (folder / CONFIG_NAME).write_text('{"a": ' + "[" * 900 + "]" * 900 + "}")
    refused(folder, "format_version|normalization")


def test_a_config_larger_than_any(folder: Path) -> None:
    with (folder / CONFIG_NAME).open("wb") as file:
        file.truncate(1 << 34)  # takes no room on the disk
    refused(folder, "more than 16,777,216 bytes")


def test_a_normalisation_of_another_width(folder: Path) -> None:
    edit(folder, normalization={"mean": [0.0] * 5, "scale": 1.0})
    refused(folder, "mean of shape")


def test_the_hub_is_asked_for_owner_and_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def answer(repo_id: str, **_: object) -> str:
        asked.append(repo_id)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", answer)
    assert SparseAutoencoder.from_pretrained("someone/some-sae").cfg.d_sae == 24
    assert asked == ["someone/some-sae"]


def test_a_hub_without_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise OSError("no network\nmore detail")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    refused("someone/some-sae", r"neither a local folder.*no network")


def test_push_uploads_a_readable_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    sae, seen = make(), {}

    class Api:
        def create_repo(self, repo_id: str, **_: object) -> str:
            return f"https://hub/{repo_id}"

        def upload_folder(self, repo_id: str, folder_path: str, allow_patterns: None) -> None:
            seen[repo_id] = SparseAutoencoder.from_pretrained(folder_path)

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert sae.push_to_hub("someone/some-sae") == "https://hub/someone/some-sae"
    assert torch.equal(seen["someone/some-sae"].W_dec, sae.W_dec)


def test_push_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Api:
        def create_repo(self, *_: object, **__: object) -> str:
            raise OSError("401 unauthorized")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    with pytest.raises(UserError, match=r"could not be uploaded.*401"):
        make().push_to_hub("someone/some-sae")


def edit(folder: Path, **values: object) -> None:
    path = folder / CONFIG_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
