"""What a file leaves open is decided by a recording, and said."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.activations import Manifest
from saev.errors import UserError
from saev.interop import open_sae
from saev.sae import SAEConfig, SparseAutoencoder
from tests.fakes.activations import write_folder

DATA = Path(__file__).parent / "data"
WIDTH, LATENTS = 6, 32


def vectors(n: int = 400) -> torch.Tensor:
    """Far from 0, so that a bias which is subtracted wrongly shows."""
    generator = torch.Generator().manual_seed(0)
    return 5 + torch.randn(n, WIDTH, generator=generator)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    images = vectors().view(-1, 4, WIDTH).numpy().astype(np.float32)
    write_folder(tmp_path / "recording", [list(images)])
    return tmp_path / "recording"


def upstream(folder: Path, subtract: bool) -> Path:
    """A file of schema 2 whose latents are the vectors' own directions, each sign."""
    eye = torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)])
    b_dec = torch.full((WIDTH,), 5.0)
    weights = {
        "W_enc": eye.T.contiguous(), "W_dec": eye, "b_dec": b_dec,
        "b_enc": torch.zeros(len(eye)) if subtract else -(eye @ b_dec),
    }  # fmt: skip
    cfg = {"d_model": WIDTH, "d_sae": len(eye), "activation": {"cls": "Relu", "params": {}}}
    header = {"schema": 2, "cfg": cfg, "commit": "unknown", "lib": "0.1"}
    folder.mkdir()
    with (folder / "sae.pt").open("wb") as file:
        file.write(json.dumps(header).encode() + b"\n")
        torch.save(weights, file)
    return folder


@pytest.mark.parametrize("subtract", [True, False])
def test_the_better_reconstruction_decides(subtract: bool, recording: Path, tmp_path: Path) -> None:
    sae = open_sae(upstream(tmp_path / "sae", subtract), recording=recording)
    assert sae.cfg.subtract_b_dec is subtract
    torch.testing.assert_close(sae.reconstruct(vectors()), vectors())
    (said,) = sae.cfg.recipe["imported"]["said"]
    assert said.startswith("b_dec is subtracted" if subtract else "b_dec is not subtracted")
    assert "0.000" in said


def test_a_recording_says_where_the_dictionary_belongs(recording: Path, tmp_path: Path) -> None:
    sae = open_sae(upstream(tmp_path / "sae", True), recording=recording)
    manifest = Manifest.read(recording)
    assert (sae.cfg.layer, sae.cfg.tokens) == (manifest.layer, manifest.tokens)
    assert sae.cfg.backbone == manifest.backbone and sae.cfg.manifest_id == manifest.id


def test_mean_and_scale_of_the_benchmark_are_measured(recording: Path, tmp_path: Path) -> None:
    """(x − mean)/std with one std over all dimensions, as visaebench normalises."""
    from safetensors.torch import save_file

    folder = tmp_path / "sae"
    folder.mkdir()
    generator = torch.Generator().manual_seed(1)
    weights = {
        "encoder.weight": torch.randn(LATENTS, WIDTH, generator=generator),
        "encoder.bias": torch.randn(LATENTS, generator=generator),
        "decoder.weight": torch.randn(LATENTS, WIDTH, generator=generator),
    }
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"activation": "topk", "k": 4}))
    sae = open_sae(folder, recording=recording)
    x = vectors()
    mean = x.mean(0)
    std = (x - mean).square().mean().sqrt()
    x_bar = (x - mean) / std
    pre = (x_bar @ weights["encoder.weight"].T + weights["encoder.bias"]).relu()
    values, at = pre.topk(4)
    z = torch.zeros_like(pre).scatter(1, at, values)
    torch.testing.assert_close(sae.encode(x), z, atol=1e-4, rtol=1e-4)
    x_hat = z @ weights["decoder.weight"] * std + mean
    torch.testing.assert_close(sae.decode(sae.encode(x)), x_hat, atol=1e-3, rtol=1e-4)
    assert any("were measured on" in line for line in sae.cfg.recipe["imported"]["said"])


def test_a_recording_of_another_width_or_none(recording: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="reads 8 dimensions and the recording tiny has 6"):
        open_sae(DATA / "saelens_topk" / "saved", recording=recording)
    with pytest.raises(UserError, match="no manifest"):
        open_sae(DATA / "saelens_topk" / "saved", recording=tmp_path / "none")


@pytest.mark.parametrize("case", ["saelens_topk", "sparsify_topk", "dictlearn_topk"])
def test_one_trained_on_normalised_activations_reads_raw_ones(case: str, tmp_path: Path) -> None:
    """Codes of raw x are the library's of (x − mean) · scale, and x̂ comes back in raw units."""
    from safetensors.torch import load_file

    folder, known = DATA / case / "saved", load_file(DATA / case / "expected.safetensors")
    x_bar = known["x"]
    write_folder(tmp_path / "recording", [list(5 + 3 * x_bar.numpy()[None].astype(np.float32))])
    statistics = Manifest.read(tmp_path / "recording").statistics
    mean, scale = torch.tensor(statistics.mean), statistics.scale
    sae = open_sae(folder, recording=tmp_path / "recording", normalized=True)
    x = mean + x_bar / scale
    torch.testing.assert_close(sae.encode(x), known["z"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        sae.decode(sae.encode(x)), mean + known["x_hat"] / scale, atol=1e-3, rtol=1e-4
    )
    assert sae.cfg.max_norm == statistics.max_norm
    assert any("were measured on" in line for line in sae.cfg.recipe["imported"]["said"])


def test_a_bias_is_decided_in_normalised_units(recording: Path, tmp_path: Path) -> None:
    """A file of schema 2 that reads (x − 5) · scale, whose b_dec is 0: either way is right, none breaks."""
    folder = upstream(tmp_path / "sae", True)
    sae = open_sae(folder, recording=recording, normalized=True)
    statistics = Manifest.read(recording).statistics
    assert float(sae.scale) == pytest.approx(statistics.scale)
    said = sae.cfg.recipe["imported"]["said"]
    assert any("b_dec is" in line for line in said) and any("measured on" in line for line in said)


def test_normalised_needs_a_recording() -> None:
    with pytest.raises(UserError, match="needs recording=DIR"):
        open_sae(DATA / "saelens_topk" / "saved", normalized=True)


def test_statistics_of_its_own_and_those_of_the_recording_are_composed(recording: Path) -> None:
    """One of ours that was fitted to an array of normalised activations."""
    sae = SparseAutoencoder(
        SAEConfig(WIDTH, LATENTS, "topk", 4), torch.Generator().manual_seed(0)
    ).requires_grad_(False)
    sae.set_statistics(torch.linspace(-0.2, 0.2, WIDTH), 1.5, None)
    statistics = Manifest.read(recording).statistics
    mean, scale = torch.tensor(statistics.mean), statistics.scale
    x = vectors()
    found = open_sae(sae, recording=recording, normalized=True)
    x_bar = (x - mean) * scale
    torch.testing.assert_close(found.encode(x), sae.encode(x_bar), atol=1e-4, rtol=1e-4)
    x_hat = mean + sae.decode(sae.encode(x_bar)) / scale
    torch.testing.assert_close(found.decode(found.encode(x)), x_hat, atol=1e-3, rtol=1e-4)
    assert float(sae.scale) == 1.5 and found.cfg.max_norm == statistics.max_norm
