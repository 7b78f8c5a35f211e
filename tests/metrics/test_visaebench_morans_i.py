"""Moran's I against loops over pairs of patches, and its null against true permutations."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saev.metrics.visaebench.morans_i import (
    PatchMorans,
    morans_i,
    shuffled_patches,
)
from saev.metrics.visaebench.morans_score import morans_score
from saev.stats.bootstrap import bootstrap_interval, image_weights


def slow_morans_i(x_hw: Tensor) -> float:
    """The definition, pair by pair."""
    places = list(itertools.product(*map(range, x_hw.shape)))
    centred = x_hw.double() - x_hw.double().mean()
    products, n_pairs = 0.0, 0
    for one, other in itertools.permutations(places, 2):
        if max(abs(one[0] - other[0]), abs(one[1] - other[1])) == 1:
            products += float(centred[one] * centred[other])
            n_pairs += 1
    return len(places) / n_pairs * products / float(centred.square().sum())


def test_range_by_eigenvalues() -> None:
    """Of w between centred maps, 14 × 14: each row's value is 196/Σw times its eigenvalue."""
    unit = torch.eye(196).unflatten(1, (14, 14))
    pad = torch.nn.functional.pad(unit, (1, 1, 1, 1)).unfold(1, 3, 1).unfold(2, 3, 1).sum((-2, -1))
    weights = (pad - unit).flatten(1).double()
    centring = torch.eye(196).double() - 1 / 196
    values = 196 / weights.sum() * torch.linalg.eigvalsh(centring @ weights @ centring)
    assert [float(values[0]), float(values[-1])] == pytest.approx([-0.53, 1.01], abs=0.03)


def sparse_maps(n: int, s: int, h: int, w: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.rand(n, s, h, w, generator=generator)
    return codes * (torch.rand(n, s, h, w, generator=generator) < 0.4)


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 6), st.integers(2, 6), st.integers(0, 99))
def test_each_map_is_the_sum_over_pairs(h: int, w: int, seed: int) -> None:
    maps = sparse_maps(2, 2, h, w, seed)
    found = morans_i(maps, min_active=1, max_active_share=1.0)
    for image, latent in found.counted_ns.nonzero().tolist():
        expected = slow_morans_i(maps[image, latent])
        assert float(found.value_ns[image, latent]) == pytest.approx(expected, abs=1e-4)
        assert -1.5 < expected < 1.0


def test_one_value_by_hand_and_the_two_extremes() -> None:
    two = torch.tensor([[1.0, 0.0], [0.0, 0.0]])  # all patches are neighbours: the null itself
    assert slow_morans_i(two) == pytest.approx(-1 / 3)
    chess = (torch.arange(14)[:, None] + torch.arange(14)) % 2.0
    half = (torch.arange(14) < 7).float()[:, None].expand(14, 14)
    stripes = (torch.arange(14) % 2.0)[:, None].expand(14, 14)
    values = morans_i(torch.stack([chess, half, stripes])[None]).value_ns[0].tolist()
    assert values == pytest.approx([0, 0.9, -0.5], abs=0.1)  # a chessboard's diagonals are alike


@settings(deadline=None, max_examples=15)
@given(st.floats(0.5, 50), st.integers(0, 99))
def test_invariances(factor: float, seed: int) -> None:
    """Scale, mirrored and turned grids change nothing."""
    maps = sparse_maps(3, 4, 5, 4, seed)
    found = morans_i(maps).value_ns
    for changed in (maps * factor, maps.flip(-1), maps.flip(-2), maps.transpose(-1, -2)):
        torch.testing.assert_close(
            morans_i(changed).value_ns, found, equal_nan=True, atol=1e-4, rtol=0
        )


def test_what_counts() -> None:
    maps = torch.zeros(1, 5, 5, 4)
    flat = maps.flatten(2)
    flat[0, 0, :4] = 1.0  # too few
    flat[0, 1, :5] = 1.0
    flat[0, 2, :18] = 1.0
    flat[0, 3, :19] = 1.0  # more than 0.9 · 20
    flat[0, 4, :] = 1.0
    found = morans_i(maps)
    assert found.counted_ns.tolist() == [[False, True, True, False, False]]
    even = morans_i(maps, max_active_share=1.0)
    assert even.counted_ns.tolist() == [[False, True, True, True, False]], "constant"
    assert torch.equal(even.value_ns.isnan(), ~even.counted_ns)


def test_null_mean_and_deviation_are_those_of_permutations() -> None:
    maps = sparse_maps(1, 3, 4, 4, seed=3)
    copies = maps.expand(20_000, -1, -1, -1)
    copies = shuffled_patches(copies, torch.Generator().manual_seed(0))
    shuffled = morans_i(copies, min_active=1)
    known = morans_i(maps, min_active=1)
    torch.testing.assert_close(
        shuffled.value_ns.mean(0), torch.full((3,), -1 / 15), atol=5e-3, rtol=0
    )
    torch.testing.assert_close(shuffled.value_ns.std(0), known.deviation_ns[0], atol=0, rtol=0.02)
    assert torch.equal(shuffled.counted_ns, known.counted_ns.expand(20_000, -1))


def test_shuffled_patches_keep_tokens_whole() -> None:
    maps = sparse_maps(3, 4, 3, 3)
    shuffled = shuffled_patches(maps, torch.Generator().manual_seed(0))
    again = shuffled_patches(maps, torch.Generator().manual_seed(0))
    assert torch.equal(shuffled, again) and not torch.equal(shuffled, maps)
    for before, after in zip(maps.flatten(2), shuffled.flatten(2), strict=True):
        tokens = {tuple(token) for token in before.T.tolist()}
        assert tokens == {tuple(token) for token in after.T.tolist()}


def test_z_of_shuffled_codes_is_standard() -> None:
    maps = shuffled_patches(sparse_maps(60, 300, 5, 5), torch.Generator().manual_seed(1))
    found = morans_score(morans_i(maps), 25)
    assert found.value == pytest.approx(found.chance, abs=2e-3)
    assert np.mean(found.z_s) == pytest.approx(0, abs=0.2)
    assert np.std(found.z_s) == pytest.approx(1, abs=0.15)


def of_counts(counted: np.ndarray) -> PatchMorans:
    value = torch.arange(float(counted.size)).reshape(counted.shape)
    return PatchMorans(value, torch.ones_like(value), torch.from_numpy(counted))


@pytest.mark.parametrize("shard", [None, 25])
def test_the_cap_looks_when_a_block_begins(shard: int | None) -> None:
    rng = np.random.default_rng(0)
    counted = rng.random((60, 8)) < rng.random(8)
    pairs = of_counts(counted)
    found = morans_score(pairs, 9, min_images=3, max_images=7, block=10, shard=shard)
    for latent in range(8):
        taken, starts = [], range(0, 60, shard or 60)
        blocks = [range(b, min(b + 10, s + (shard or 60), 60)) for s in starts
                  for b in range(s, min(s + (shard or 60), 60), 10)]  # fmt: skip
        for block in blocks:
            if len(taken) < 7:
                taken += [float(pairs.value_ns[i, latent]) for i in block if counted[i, latent]]
        expected = np.mean(taken) if len(taken) >= 3 else np.nan
        assert found.per_latent_s[latent] == pytest.approx(expected, nan_ok=True)
    assert found.value == pytest.approx(np.nanmean(found.per_latent_s))


def test_drawn_latents_and_none() -> None:
    pairs = of_counts(np.ones((60, 20), bool))
    found = morans_score(pairs, 9, max_latents=6)
    assert len(found.scored_k) == 6 and (np.diff(found.scored_k) > 0).all()
    assert found.value == pytest.approx(found.per_latent_s[found.scored_k].mean())
    assert np.isnan(morans_score(pairs, 9, min_images=61).value)
    with pytest.raises(ValueError, match="four at least"):
        morans_i(torch.ones(1, 1, 1, 3))


def test_draws_are_the_mean_of_repeated_images() -> None:
    found = morans_score(morans_i(sparse_maps(60, 12, 4, 4)), 16, min_images=5)
    assert found.resampled(np.ones((1, 60)))[0] == pytest.approx(found.value)
    weight = image_weights(60, 1, np.random.default_rng(0))
    rows = np.repeat(np.arange(60), weight[0].astype(int))
    means = [
        found.value_nk[rows, k][found.counted_nk[rows, k]].mean()
        for k in range(len(found.scored_k))
    ]
    assert found.resampled(weight)[0] == pytest.approx(np.mean(means))
    low, high, _ = bootstrap_interval(found.resampled, 60)
    assert low < found.value < high
