"""A steered model as a file of its own: it computes what the model computes, or is not written."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from saev.backbones import Backbone, load_backbone
from saev.editing import edits
from saev.editing.code_edits import Scale
from saev.errors import UserError
from saev.heads import backbone_identity
from saev.sae import SAEConfig, SparseAutoencoder
from saev.steering import Steering, exported

MASK = torch.arange(3 * 9).view(3, 9) % 3 == 0


@pytest.fixture(scope="module")
def model() -> Backbone:
    """Three small blocks, 9 patches."""
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", embed_dim=32, depth=3, num_heads=2, img_size=48,
                            num_classes=5)  # fmt: skip
    return load_backbone(vit)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def sae(model: Backbone, images: torch.Tensor) -> SparseAutoencoder:
    """All but one token are of normal norm."""
    norms = model.tap(images, [1])[1][:, 1:].norm(dim=-1).flatten().sort().values
    cfg = SAEConfig(32, 64, "topk", 16, layer=1, tokens={"which": "patch"},
                    max_norm=float(norms[-2:].mean()), backbone=backbone_identity(model))  # fmt: skip
    return SparseAutoencoder(cfg, torch.Generator().manual_seed(0)).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def everything(sae: SparseAutoencoder, model: Backbone, images: torch.Tensor) -> Steering:
    """Every kind of edit and of place, each on latents of its own that fire on the images."""
    codes = sae.encode(model.tap(images, [1])[1][:, 1:])
    k = (codes > 0).sum((0, 1)).argsort(descending=True).tolist()
    given = [
        edits.ablate(latents=k[:3]),
        edits.set(k[3], code=2.0, where={"patches": [0, 4]}),
        edits.scale(k[4], factor=3.0),
        edits.add(k[5], code=1.5, where="mask"),
        edits.clamp(k[6], low_code=0.0, high_code=0.1),
        edits.swap(latents=k[7:9], source=codes[1][:, k[7:9]]),
        edits.add(k[9], code=-1.0, where="off_mask"),
        edits.add(k[10], code=2.0, where={"fires": k[11], "threshold": 0.1}),
        edits.set(k[12], scale=-1.0, where={"silent": k[13]}),
    ]
    return Steering.of(sae, model, given, largest=torch.full((64,), 2.0))


def outputs_of(steered: Steering, images: torch.Tensor, *mask: torch.Tensor) -> dict:
    return {k: v.numpy() for k, v in steered(images, *mask)._asdict().items()}


def assert_same(found: dict, expected: dict) -> None:
    assert set(found) == {"tokens", "pooled", "logits"}
    for name, value in expected.items():
        np.testing.assert_allclose(np.asarray(found[name]), value, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_every_edit_is_in_the_file(everything, model, images, tmp_path: Path) -> None:
    path = everything.export(tmp_path / "steered.pt2", images=images)
    module = torch.export.load(path).module()
    for n in (1, 3):
        found = module(images[:n], MASK[:n])
        assert_same(found, outputs_of(everything, images[:n], MASK[:n]))
    assert not torch.allclose(found["logits"], model(images).logits, atol=1e-3)
    other = module(images, ~MASK)
    assert not torch.allclose(other["logits"], found["logits"], atol=1e-4), "the mask is an input"
    assert [file.name for file in tmp_path.iterdir()] == ["steered.pt2"]


@pytest.mark.slow
def test_it_runs_without_this_library(sae, model, images, tmp_path: Path) -> None:
    steered = Steering.of(sae, model, edits.ablate(latents=range(64)), mode="replace")
    steered.export(tmp_path / "steered.pt2")
    np.save(tmp_path / "images.npy", images.numpy())
    code = (
        "import sys, numpy, torch; x = torch.from_numpy(numpy.load('images.npy'));"
        "y = torch.export.load('steered.pt2').module()(x);"
        "numpy.savez('out.npz', **{k: v.numpy() for k, v in y.items()});"
        "assert not {'saev', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert_same(dict(np.load(tmp_path / "out.npz")), outputs_of(steered, images))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of onnxscript
def test_onnx_computes_the_same(everything, images, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = everything.export(tmp_path / "steered.onnx", images=images)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    for n in (1, 3):
        found = session.run(names, {"images": images[:n].numpy(), "mask": MASK[:n].numpy()})
        assert_same(dict(zip(names, found, strict=True)),
                    outputs_of(everything, images[:n], MASK[:n]))  # fmt: skip
    assert [file.name for file in tmp_path.iterdir()] == ["steered.onnx"]


@dataclass(frozen=True)
class WhereAnyFires(Scale):
    """Looks at values to decide what to compute, which no trace can hold."""

    def new_codes(self, z, largest):
        return self.factor * z if bool((z > 0).any()) else z


def test_what_cannot_be_traced_is_said(sae, model, tmp_path: Path) -> None:
    steered = Steering.of(sae, model, WhereAnyFires((3,), factor=2.0))
    with pytest.raises(
        UserError, match=r"these edits cannot be written as \.pt2 \(\w+: .+save the st"
    ):
        steered.export(tmp_path / "steered.pt2")
    assert not list(tmp_path.iterdir())


def test_a_file_that_differs_is_not_kept(sae, model, tmp_path: Path, monkeypatch) -> None:
    def wrong(traced, example, path):
        path.write_bytes(b"a program")
        return lambda *given: {k: v + 0.01 * v.abs().max() for k, v in traced(*given).items()}

    monkeypatch.setattr(exported, "_make_pt2", wrong)
    with pytest.raises(
        UserError, match=r"would not be the model: tokens differ by 0\.01 of the lar"
    ):
        Steering.of(sae, model, edits.ablate(3)).export(tmp_path / "steered.pt2")
    assert not list(tmp_path.iterdir())


def test_endings_and_packages_are_checked_first(sae, model, tmp_path: Path, monkeypatch) -> None:
    steered = Steering.of(sae, model, edits.ablate(3))
    with pytest.raises(UserError, match=r"must end in \.pt2 or \.onnx"):
        steered.export(tmp_path / "steered.pt")
    monkeypatch.setattr(exported, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"onnx, onnxscript, onnxruntime, not installed: pip install"
    ):
        steered.export(tmp_path / "steered.onnx")
    assert not list(tmp_path.iterdir())
