"""An edit in the explorer is the edit of a controlled experiment: same latents, same controls."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.images import FolderImages, SegmentationImages
from saev.exploration.edit_arms import N_DRAWS
from saev.exploration.explorer import Explorer
from saev.heads import Reading, TrainedHead, backbone_identity
from saev.sae import SAEConfig, SparseAutoencoder
from tests.exploration.agreement import compare, experiment_arms

DATA = Path(os.environ.get("SAEV_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))
EDITS = [
    {"kind": "set", "scale": -1.0},
    {"kind": "add", "scale": 2.0},
    {"kind": "ablate"},
    {"kind": "scale", "factor": 3.0},
    {"kind": "set", "scale": -1.0, "where": {"patches": [0, 1, 40, 41, 42]}},
]
WHICH = ["set", "add", "ablate", "scale", "patches"]


def firing(explorer: Explorer, key: str, n: int) -> list[int]:
    return [row.latent for row in explorer.look(key, None, n=n)]


@pytest.mark.parametrize("edit", EDITS, ids=WHICH)
def test_every_arm_predicts_what_the_experiment_predicts(explorer: Explorer, edit) -> None:
    key = explorer.gallery[0].key
    concept = explorer.edit(key, [{**edit, "latents": firing(explorer, key, 1)}]).target
    assert compare(explorer, key, firing(explorer, key, 1), edit, concept) <= 1e-5


def test_two_latents_of_one_edit_agree_too(explorer: Explorer) -> None:
    key = explorer.gallery[1].key
    latents = sorted(firing(explorer, key, 2))
    assert compare(explorer, key, latents, EDITS[0], "colour/blue") <= 1e-5


def test_the_tally_of_the_runner_sums_the_same_probabilities(explorer: Explorer) -> None:
    """Over the units that the clean model gives to a class, as heads that answer per patch count."""
    key = explorer.gallery[0].key
    (latent,) = firing(explorer, key, 1)
    outcome = explorer.edit(key, [{**EDITS[0], "latents": [latent]}], target="colour/blue")
    _, expected = experiment_arms(explorer, key, [latent], EDITS[0], "colour/blue")
    before = outcome.arms["before"].all_probabilities
    after = outcome.arms["selected"].all_probabilities
    assert before is not None and after is not None
    for first, last in explorer.setting.readout.groups.spans:
        base = before[:, first:last].argmax(-1)
        sums = [after[base == c, first + c].sum() for c in range(last - first)]
        np.testing.assert_allclose(sums, expected[first:last], atol=1e-4)


def test_random_latents_are_eight_and_none_of_them_is_edited(explorer: Explorer) -> None:
    key = explorer.gallery[0].key
    latents = firing(explorer, key, 2)
    edits = [
        {"kind": "ablate", "latents": [latents[0]]},
        {"kind": "set", "latents": [latents[1]], "scale": 2.0},
    ]
    outcome = explorer.edit(key, edits)
    assert len(outcome.arms["random_latent"].changes) == N_DRAWS >= 8
    assert outcome.arms["random_latent"].change == max(outcome.arms["random_latent"].changes)
    own = outcome.arms["selected"].change
    assert outcome.exceeds["random_latent"] == (own > outcome.arms["random_latent"].change)
    assert outcome.arms["before"].change == 0


def vit_tiny_sae(folder: Path, resize: str | None) -> Path:
    """Random atoms for ViT-Tiny, centred on what it sees of noise."""
    from saev.backbones import load_backbone

    weights = str(DATA / "vit_tiny" / "timm.safetensors")
    backbone = load_backbone(
        "timm", "vit_tiny_patch16_224.augreg_in21k_ft_in1k", weights, layer=10, resize=resize
    )
    cfg = SAEConfig(
        d_model=backbone.width, d_sae=768, activation="topk", k=16, layer=10,
        backbone=backbone_identity(backbone), tokens={"which": "patch"},
    )  # fmt: skip
    sae = SparseAutoencoder(cfg, torch.Generator().manual_seed(1))
    acts = backbone.tap(torch.randn(4, 3, *backbone.image_size), [10])[10][:, 1:].flatten(0, 1)
    scale = float((192 / (acts - acts.mean(0)).square().sum(-1).mean()).sqrt())
    sae.set_statistics(acts.mean(0), scale, None)
    return sae.save_pretrained(folder)


def vit_tiny_head(folder: Path, kind: str, resize: str | None, names: list[str]) -> Path:
    """Random rows on the final tokens: what a head learned makes no difference to agreement."""
    from saev.backbones import load_backbone

    weights = str(DATA / "vit_tiny" / "timm.safetensors")
    backbone = load_backbone(
        "timm", "vit_tiny_patch16_224.augreg_in21k_ft_in1k", weights, layer=10, resize=resize
    )
    reading = Reading.of("patches" if kind == "segmentation" else "class", backbone)
    rows = 0.3 * torch.randn(len(names), 192, generator=torch.Generator().manual_seed(0))
    head = TrainedHead(kind, reading, names, backbone_identity(backbone), rows)
    return head.save(folder)


@pytest.mark.real
@pytest.mark.skipif(not (DATA / "vit_tiny").is_dir(), reason=f"no real weights in {DATA}")
@pytest.mark.parametrize("name", ["caltech26", "camvid"])
def test_vit_tiny_on_photographs_agrees(tmp_path: Path, name: str) -> None:
    per_patch = name == "camvid"
    roots = [str(DATA / name)]
    source = (
        SegmentationImages(roots=roots, void_value=11) if per_patch else FolderImages(roots=roots)
    )
    assert source.class_names is not None
    resize, kind = ("squash", "segmentation") if per_patch else (None, "classification")
    head = vit_tiny_head(tmp_path / "head", kind, resize, source.class_names)
    sae = vit_tiny_sae(tmp_path / "sae", resize)
    explorer = Explorer.open(sae, head, images=source, n_images=26, device="cpu")
    key = explorer.gallery[0].key
    latents = firing(explorer, key, 1)
    for edit in EDITS[:3]:
        concept = explorer.edit(key, [{**edit, "latents": latents}]).target
        if not (explorer.start.discovery.labels == explorer.setting.readout.column(concept)).any():
            concept = explorer.concepts[0]
        assert compare(explorer, key, latents, edit, concept) <= 1e-5
