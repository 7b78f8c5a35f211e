"""Scores of known features against dictionaries whose answer is known."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix
from torch import Tensor

from saev.concepts.known_features import (
    Predictors,
    as_entries,
    best_predictors,
    carriers,
    detector_codes,
    encode_tokens,
)
from saev.sae import SAEConfig, SparseAutoencoder

WIDTH, N_FEATURES, LENGTH = 24, 5, 4.0


class World:
    """Five orthogonal directions with codes of their own in tokens of almost nothing else."""

    def __init__(self, n: int = 3000) -> None:
        generator = torch.Generator().manual_seed(0)
        self.directions = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator)).Q[
            :N_FEATURES
        ]
        on = torch.rand(n, N_FEATURES, generator=generator) < 0.1
        self.lengths = (on * LENGTH).numpy()
        noise = 0.1 * torch.randn(n, WIDTH, generator=generator)
        self.x = torch.from_numpy(self.lengths).float() @ self.directions + noise
        self.clean = noise


def dictionary(atoms: Tensor, bias: float = -1.0) -> SparseAutoencoder:
    """ReLU of projections on unit atoms, less ``bias``."""
    sae = SparseAutoencoder(SAEConfig(WIDTH, len(atoms), "relu"), torch.Generator())
    sae.requires_grad_(False)
    sae.W_enc.copy_(F.normalize(atoms, dim=1))
    sae.W_dec.copy_(F.normalize(atoms, dim=1))
    sae.b_enc.fill_(bias)
    return sae.eval()


def scored(sae: SparseAutoencoder, world: World) -> tuple[Predictors, csr_matrix]:
    codes = encode_tokens(sae, world.x)
    on = world.lengths > 0
    half = len(on) // 2
    found = best_predictors((codes[:half], on[:half]), (codes[half:], on[half:]))
    return found, codes


def test_codes_are_those_of_the_dictionary_sorted_by_latent() -> None:
    world = World(50)
    sae = dictionary(world.directions)
    codes = encode_tokens(sae, world.x)
    assert np.allclose(codes.toarray(), sae.encode(world.x).numpy())
    entries = as_entries(codes)
    assert (np.diff(entries.latent) >= 0).all()
    assert np.allclose(codes.toarray()[entries.row, entries.latent], entries.value)


def test_the_features_themselves_are_recovered_by_one_latent_each() -> None:
    world = World()
    order = [3, 1, 4, 0, 2]
    sae = dictionary(world.directions[order])
    found, codes = scored(sae, world)
    assert found.latent.tolist() == [order.index(m) for m in range(N_FEATURES)]
    assert (found.f1 > 0.99).all() and (found.auroc > 0.99).all()
    split = carriers(sae, codes, world.lengths, world.directions, found)
    assert split.cosine == pytest.approx(np.ones(N_FEATURES), abs=1e-5)
    assert np.array_equal(split.carries, np.eye(N_FEATURES, dtype=bool)[order])
    assert split.silent.max() < 0.01 and split.absorbed.max() == 0


def test_random_atoms_recover_nothing_and_carry_nothing() -> None:
    world = World()
    generator = torch.Generator().manual_seed(1)
    sae = dictionary(torch.randn(N_FEATURES, WIDTH, generator=generator))
    found, codes = scored(sae, world)
    assert (found.f1 < 0.9).all() and found.f1.mean() < 0.6
    split = carriers(sae, codes, world.lengths, world.directions, found)
    assert (split.best_cosine < 0.7).all()


def test_a_feature_in_two_halves_is_split_and_one_that_another_latent_takes_is_absorbed() -> None:
    world = World()
    on = world.lengths > 0
    both = on[:, 0] & on[:, 1]
    assert both.sum() > 10
    joint = F.normalize(world.directions[0] + world.directions[1], dim=0)
    atoms = torch.stack([world.directions[0], world.directions[1], joint])
    sae = dictionary(atoms)
    codes = encode_tokens(sae, world.x).tolil()
    codes[:, 2] = 0
    # where both are on, the joint latent alone says so
    codes[np.flatnonzero(both), 0] = 0
    codes[np.flatnonzero(both), 1] = 0
    codes[np.flatnonzero(both), 2] = LENGTH * 2**0.5
    sparse_codes = csr_matrix(codes, dtype=np.float32)
    found = best_predictors((sparse_codes, on[:, :2]), (sparse_codes, on[:, :2]))
    assert found.latent.tolist() == [0, 1]
    split = carriers(sae, sparse_codes, world.lengths[:, :2], world.directions[:2], found)
    expected = both.sum() / on[:, 0].sum()
    assert split.absorbed[0] == pytest.approx(expected, abs=0.01)
    assert split.silent[0] == pytest.approx(expected, abs=0.01)

    halves = dictionary(torch.stack([world.directions[0], world.directions[0]]))
    codes = csr_matrix(encode_tokens(halves, world.x) * 0.5)
    found = best_predictors((codes, on[:, :1]), (codes, on[:, :1]))
    split = carriers(halves, codes, world.lengths[:, :1], world.directions[:1], found)
    assert split.carries.all()


def test_the_detector_sees_through_noise_along_other_directions() -> None:
    world = World()
    loud = torch.randn(len(world.x), 1, generator=torch.Generator().manual_seed(2))
    along = F.normalize(world.directions[0] + world.directions[1:].sum(0), dim=0)
    noise = 8 * loud * along
    codes = detector_codes(world.x + noise, world.directions, world.clean + noise)
    on = world.lengths > 0
    found = best_predictors((codes, on), (codes, on))
    assert found.latent.tolist() == list(range(N_FEATURES))
    assert (found.f1 > 0.95).all()
    plain, _ = scored(dictionary(world.directions), World())
    naive = encode_tokens(dictionary(world.directions), world.x + noise)
    assert best_predictors((naive, on), (naive, on)).f1[0] < 0.8 < plain.f1[0]
