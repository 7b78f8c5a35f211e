"""Dictionaries find features that are known, in small; ``make bench-recovery`` is the full size."""

import logging
from dataclasses import replace

import pytest
import torch

from benchmarks.recovery import VARIANTS, Recovery, World, score, train
from saev.sae import SAEConfig, SparseAutoencoder
from saev.sae.baselines import fit_baseline
from tests.fakes.planted import LIGHTNING_WARNINGS

pytestmark = LIGHTNING_WARNINGS
LINEAR = ("pca", "random", "raw")
SIZE = {"n_features": 48, "width": 24, "mean_l0": 3}


def world() -> World:
    return World(**SIZE)


def test_features_have_the_statistics_they_are_said_to_have() -> None:
    made = World(64, 32, 4)
    x, strengths = made.draw(20_000)
    on = strengths > 0
    assert float(on.sum(1).float().mean()) == pytest.approx(4, rel=0.25)
    rates = on.float().mean(0)
    assert float(rates.max()) > 5 * float(rates.median())  # heavy-tailed
    children = (made.parents >= 0).nonzero().flatten()
    assert len(children) == 32
    assert not bool((on[:, children] & ~on[:, made.parents[children]]).any())
    # Neighbours come together far more often than by chance, where neither needs a parent.
    first, second = on[:, 0].float(), on[:, 1].float()
    assert float((first * second).mean()) > 1.5 * float(first.mean() * second.mean())
    assert float(x.mean(0).norm()) > 3 * float((x - x.mean(0)).std())
    ratio = (x - x.mean(0)).square().mean(0)
    assert float(ratio.max()) > 10 * float(ratio.median())  # massive dimensions
    values = strengths[on]
    assert float(values.max()) > 4 * float(values.median())


def test_the_same_seed_makes_the_same_world_and_draws_go_on() -> None:
    first, second = world(), world()
    x = first.draw(10)[0]
    assert torch.equal(x, second.draw(10)[0])
    assert not torch.equal(x, first.draw(10)[0])


def known(made: World) -> SparseAutoencoder:
    """The features themselves, read out by the pseudo-inverse: latents = features where they can."""
    n_features, width = made.features_fd.shape
    sae = SparseAutoencoder(SAEConfig(width, n_features, "topk", 3), torch.Generator())
    with torch.no_grad():
        sae.W_dec.copy_(made.features_fd)
        sae.W_enc.copy_(made.features_fd)
        sae.b_dec.copy_(made.mean_d)
    return sae.requires_grad_(False)


def test_scores_of_the_truth_of_a_permutation_and_of_chance() -> None:
    made = world()
    truth = known(made)
    found = score(truth, made)
    assert found.cosine == pytest.approx(1, abs=1e-5) and found.found == 1
    order = torch.randperm(48)
    for matrix in (truth.W_dec, truth.W_enc):
        matrix.copy_(matrix[order])
    again = score(truth, made)
    assert again.cosine == pytest.approx(1, abs=1e-5)
    assert again.precision == pytest.approx(found.precision, abs=0.03)
    chance = score(truth.untrained(0), made)
    assert chance.cosine < 0.75 and chance.found < 0.1 and chance.precision < found.precision


def test_atoms_that_are_missing_count_as_not_found() -> None:
    made = world()
    truth = known(made)
    half = SparseAutoencoder(replace(truth.cfg, d_sae=24), torch.Generator()).requires_grad_(False)
    for name in ("W_dec", "W_enc", "b_enc"):
        getattr(half, name).copy_(getattr(truth, name)[:24])
    assert score(half, made).found == 0.5


@pytest.mark.slow
def test_every_variant_finds_more_than_random_atoms_and_the_baselines() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    found: dict[str, Recovery] = {}
    for name in VARIANTS:
        made = world()
        sae = train(name, made, d_sae=96, k=3, n_steps=400, batch_size=256, lr=1e-2)
        found[name] = score(sae, made)
        if name == "topk":
            # ICA is as good in a world this small.
            for kind in LINEAR:
                found[kind] = score(fit_baseline(kind, sae, made.draw(4096)[0]), made)
    frozen = found.pop("frozen_decoder")
    for name in VARIANTS:
        if name != "frozen_decoder":
            assert found[name].cosine > frozen.cosine + 0.02, (name, found[name], frozen)
    assert found["topk"].cosine > max(found[kind].cosine for kind in LINEAR) + 0.2
