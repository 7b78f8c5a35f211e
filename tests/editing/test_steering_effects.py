"""Steering a latent is an edit of the running model."""

import pytest
import torch

from saev.backbones import load_backbone
from saev.editing.steering_effects import prepare, random_shifts, shifts_of, steer_effects
from saev.sae import SAEConfig, SparseAutoencoder


@pytest.fixture(scope="module")
def world():
    backbone = load_backbone("timm", "micro", "embedded", layer=4)
    cfg = SAEConfig(d_model=backbone.width, d_sae=12, activation="topk", k=3, layer=4,
                    tokens={"which": "patch"})  # fmt: skip
    sae = SparseAutoencoder(cfg, torch.Generator().manual_seed(0)).eval().requires_grad_(False)
    sae.scale.fill_(0.5)
    pixels = torch.randn(3, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    return backbone, sae, pixels


def read(output) -> torch.Tensor:
    return output.logits


def test_equals_the_edited_forward_pass(world) -> None:
    backbone, sae, pixels = world
    unsteered = prepare(pixels, sae, backbone, read)
    latents = torch.tensor([2, 7])
    largest = torch.tensor([1.5, 4.0])
    shifts = shifts_of(sae, latents, 2.0, largest)
    found = steer_effects(unsteered, shifts, 4, backbone, read, batch_size=3)
    for row, (latent, peak) in enumerate(zip(latents, largest, strict=True)):
        z = torch.zeros(1, 12)
        z[0, latent] = 2 * peak
        delta = sae.decode(z) - sae.decode(torch.zeros(1, 12))

        def edit(acts: torch.Tensor, delta: torch.Tensor = delta) -> torch.Tensor:
            acts = acts.clone()
            acts[:, 1:] += delta  # every patch, not the class token
            return acts

        expected = (backbone(pixels, {4: edit}).logits - backbone(pixels).logits).mean(0)
        torch.testing.assert_close(found[row], expected, atol=1e-4, rtol=1e-4)


def test_tokens_the_dictionary_does_not_answer_for_are_left_alone(world) -> None:
    from dataclasses import replace

    backbone, sae, pixels = world
    cfg, sae.cfg = sae.cfg, replace(sae.cfg, max_norm=1e-3)
    try:
        unsteered = prepare(pixels, sae, backbone, read)
        shifts = shifts_of(sae, torch.tensor([0]), 2.0, torch.tensor([5.0]))
        found = steer_effects(unsteered, shifts, 4, backbone, read)
    finally:
        sae.cfg = cfg
    torch.testing.assert_close(found, torch.zeros_like(found), atol=1e-5, rtol=0)


def test_random_directions_have_the_lengths_of_the_latents(world) -> None:
    _, sae, _ = world
    shifts = shifts_of(sae, torch.arange(12), 1.0, torch.arange(1.0, 13.0))
    random = random_shifts(shifts, 50, seed=0)
    lengths = shifts.norm(dim=1)
    assert all((lengths - n).abs().min() < 1e-4 for n in random.norm(dim=1))
    assert (random / random.norm(dim=1, keepdim=True) @ sae.W_dec.T).abs().mean() < 0.2
