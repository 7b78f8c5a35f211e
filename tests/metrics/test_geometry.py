"""Geometry of dictionaries: by hand where it can be, and the published null of random atoms."""

import pytest
import torch

from saev.metrics.geometry import (
    antipodal_pairs,
    geometry,
    matched_cosine,
    random_atoms,
)


def test_orthogonal_atoms() -> None:
    found = geometry(3 * torch.eye(5))
    assert found.coherence == pytest.approx(0)
    assert found.stable_rank == pytest.approx(5)
    assert found.effective_rank == pytest.approx(5)


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    atoms = random_atoms(50, 8)
    whole = geometry(atoms)
    monkeypatch.setattr("saev.metrics.geometry.CHUNK", 7)
    parts = geometry(atoms)
    assert parts.coherence == pytest.approx(whole.coherence)
    torch.testing.assert_close(parts.nearest, whole.nearest)
    cosine = atoms @ atoms.T - 2 * torch.eye(50)
    torch.testing.assert_close(whole.nearest, cosine.max(1).values)
    least = (atoms @ atoms.T).min(1)
    torch.testing.assert_close(whole.opposite, least.values)
    assert torch.equal(whole.opposite_at, least.indices) and torch.equal(
        parts.opposite_at, least.indices
    )


def test_mirror_images_are_counted_once_a_pair() -> None:
    atoms = random_atoms(40, 64)
    assert antipodal_pairs(geometry(atoms)) == 0
    noise = 0.02 * random_atoms(3, 64, seed=1)
    mirrored = torch.cat([atoms, -atoms[:3] + noise])
    assert antipodal_pairs(geometry(mirrored)) == 3
    assert antipodal_pairs(geometry(torch.cat([mirrored, -atoms[:1]]))) == 3, "of three one pair"
    assert float(geometry(torch.eye(1)).opposite) == 0


def test_a_shuffled_dictionary_is_matched_back() -> None:
    atoms = random_atoms(30, 12)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    cosine, match = matched_cosine(atoms, atoms[order])
    torch.testing.assert_close(cosine, torch.ones(30))
    assert torch.equal(order[match], torch.arange(30))


@pytest.mark.slow
def test_stability_of_random_dictionaries_is_the_known_null() -> None:
    cosine, _ = matched_cosine(random_atoms(2000, 768, 0), random_atoms(2000, 768, 1))
    assert float(cosine.mean()) == pytest.approx(0.119, abs=0.002)
