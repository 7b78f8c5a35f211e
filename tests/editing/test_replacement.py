"""Replacement touches the chosen normal tokens and nothing else; fidelity has the right nulls."""

import pytest
import torch

from saev.backbones import Backbone, load_backbone
from saev.editing import ARMS, control_arms, on_chosen_tokens
from saev.evaluation.fidelity import Fidelity
from saev.heads.own import make_head
from saev.sae import SAEConfig, SparseAutoencoder


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("timm", "micro", weights="random", layer=3)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(3, 3, 96, 96, generator=torch.Generator().manual_seed(0))


def dictionary(width: int, max_norm: float | None) -> SparseAutoencoder:
    cfg = SAEConfig(width, 2 * width, "topk", 8, max_norm=max_norm)
    return SparseAutoencoder(cfg, torch.Generator().manual_seed(1)).eval().requires_grad_(False)


def test_only_chosen_normal_tokens_change(backbone: Backbone, images: torch.Tensor) -> None:
    acts = backbone.tap(images)[3].clone()
    acts[1, 5] *= 1000  # an artefact token
    positions = backbone.token_indices("patch")
    sae = dictionary(backbone.width, float(acts[0].norm(dim=-1).max()) * 2)
    edited = on_chosen_tokens(sae, positions, torch.zeros_like)(acts)
    assert torch.equal(edited[:, 0], acts[:, 0])  # the class token is not a patch
    assert torch.equal(edited[1, 5], acts[1, 5])  # not normal: passes through
    changed = edited[:, positions].abs().sum(-1) == 0
    assert int(changed.sum()) == positions.numel() * 3 - 1


def test_identity_replacement_is_bit_exact(backbone: Backbone, images: torch.Tensor) -> None:
    sae = dictionary(backbone.width, None)
    edit = on_chosen_tokens(sae, backbone.token_indices("patch"), lambda x: x)
    clean, edited = backbone(images), backbone(images, {3: edit})
    assert torch.equal(clean.tokens, edited.tokens)
    assert clean.logits is not None and edited.logits is not None
    assert torch.equal(clean.logits, edited.logits)


def test_arms_and_their_order(backbone: Backbone, images: torch.Tensor) -> None:
    acts = backbone.tap(images)[3]
    sae = dictionary(backbone.width, None)
    positions = backbone.token_indices("all")
    mean = acts.flatten(0, 1).mean(0)
    arms = control_arms(sae, sae.untrained(3), mean, positions)
    assert ("clean", *arms) == ARMS
    assert torch.allclose(arms["mean_ablated"](acts), mean.expand_as(acts))
    assert torch.equal(arms["zero_ablated"](acts), torch.zeros_like(acts))
    assert torch.allclose(arms["reconstructed"](acts), sae.reconstruct(acts), atol=1e-5)


def test_perfect_reconstruction_recovers_everything(
    backbone: Backbone, images: torch.Tensor
) -> None:
    acts = backbone.tap(images)[3]
    arms = {
        "reconstructed": lambda x: x,
        "mean_ablated": lambda x: x.mean((0, 1)).expand_as(x),
        "zero_ablated": torch.zeros_like,
        "untrained": torch.zeros_like,
    }
    fidelity = Fidelity(backbone, 3, make_head(backbone, None), arms)
    fidelity.update(acts, backbone.resume(acts, 3), torch.tensor([0, -1, 2]))
    found = fidelity.compute()
    assert found["fidelity/kl_recovered"] == 1.0
    assert found["fidelity/kl/clean"] == found["fidelity/kl/reconstructed"] == 0.0
    assert found["fidelity/agreement/reconstructed"] == 1.0
    assert found["fidelity/kl/mean_ablated"] > 0
    assert found["fidelity/kl/zero_ablated"] == found["fidelity/kl/untrained"]
