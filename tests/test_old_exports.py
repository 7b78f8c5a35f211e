"""What earlier versions exported stays readable: dictionaries, a head and a recording kept as files.

``tests/data/exports`` was written before the code was rearranged; ``expected.safetensors`` holds the
inputs and what came of them then.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from datamodules.activations import Manifest
from datamodules.activations.tar import iter_samples
from datamodules.images import ScenesImages, source_from_spec
from saev.backbones import load_backbone
from saev.heads import load_head
from saev.sae import SparseAutoencoder
from saev.sae.config import ACTIVATIONS

EXPORTS = Path(__file__).parent / "data" / "exports"
EXPECTED = load_file(EXPORTS / "expected.safetensors")


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_dictionary_gives_the_codes_it_gave(activation: str) -> None:
    sae = SparseAutoencoder.from_pretrained(EXPORTS / activation)
    assert sae.cfg.activation == activation
    codes = sae.encode(EXPECTED["x"])
    assert torch.equal(codes > 0, EXPECTED[activation] > 0)
    assert torch.allclose(codes, EXPECTED[activation], atol=1e-5)
    x_hat = sae.decode(EXPECTED[activation])
    assert torch.allclose(x_hat, EXPECTED[f"{activation}.x_hat"], atol=1e-5)


def test_a_head_gives_the_logits_it_gave() -> None:
    head = load_head(EXPORTS / "head")
    assert torch.allclose(head.of_rows(EXPECTED["head.rows"]), EXPECTED["head"], atol=1e-5)
    head.check_backbone(load_backbone(**head.backbone["spec"]))


def test_a_recording_is_read_as_it_was() -> None:
    manifest = Manifest.read(EXPORTS / "recording")
    samples = [
        sample for shard in manifest.shards for sample in iter_samples(EXPORTS / "recording", shard)
    ]
    acts = torch.cat([torch.as_tensor(sample.acts).float() for sample in samples])
    assert acts.shape == (96, manifest.width)
    assert torch.equal(acts[: len(EXPECTED["x"])], EXPECTED["x"])
    assert manifest.id == SparseAutoencoder.from_pretrained(EXPORTS / "topk").cfg.manifest_id


def test_the_images_it_named_by_class_open() -> None:
    cfg = SparseAutoencoder.from_pretrained(EXPORTS / "topk").cfg
    assert cfg.images is not None and "_target_" in cfg.images
    source = source_from_spec(cfg.images, "topk")
    assert isinstance(source, ScenesImages)
    assert source.items == ScenesImages(n_images=6, seed=0).items
    assert (
        source_from_spec(load_head(EXPORTS / "head").recipe["images"], "head").items == source.items
    )
    recorded = Manifest.read(EXPORTS / "recording").images
    assert {"name": source.name, **source.fingerprint()} == recorded
