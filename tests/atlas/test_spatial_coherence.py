"""Moran's I of every latent of an atlas: that of dense maps, and its null where patches are dealt out."""

import numpy as np
import pytest
import torch

from saev.atlas import spatial_coherence
from saev.atlas.spatial_coherence import SpatialCoherence
from saev.metrics.visaebench.morans_i import morans_i

GRID = (6, 7)
N_PATCHES = 42


def sparse_codes(codes_bps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latent, row and code as a code store gives them: sorted by latent and row."""
    flat = codes_bps.reshape(-1, codes_bps.shape[2])
    latent, row = flat.T.nonzero()
    return latent, row, flat[row, latent]


def measured(codes_bps: np.ndarray, patches: list[int]) -> dict[str, np.ndarray]:
    found = SpatialCoherence(GRID, patches, codes_bps.shape[1])
    half = codes_bps.shape[2] // 2
    for first, last in ((0, half), (half, codes_bps.shape[2])):
        latent, row, value = sparse_codes(codes_bps[:, :, first:last])
        found.add(latent + first, row, value, first, last)
    return found.columns()


def some_codes(seed: int, n_images: int = 30, n_latents: int = 8) -> np.ndarray:
    rng = np.random.default_rng(seed)
    codes = rng.random((n_images, N_PATCHES, n_latents)).astype(np.float32)
    return codes * (rng.random(codes.shape) < rng.random((n_images, 1, n_latents)))


def test_it_is_that_of_dense_maps_with_a_class_token_and_in_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    codes = some_codes(0)
    codes[:, :, 3] = 0  # never fires
    maps = torch.from_numpy(codes).permute(0, 2, 1).reshape(30, 8, *GRID).double()
    direct = morans_i(maps)
    alone = measured(codes, list(range(N_PATCHES)))
    assert alone["moran_images"].tolist() == direct.counted_ns.sum(0).tolist()
    assert alone["moran"] == pytest.approx(direct.value_ns.nanmean(0).numpy(), nan_ok=True)
    assert np.isnan(alone["moran"][3]) and np.isnan(alone["moran_z"][3])
    for before in (1, 5):  # a class token, and registers
        more = np.concatenate([np.ones((30, before, 8), np.float32), codes], 1)
        monkeypatch.setattr(spatial_coherence, "AT_ONCE", 7)
        again = measured(more, list(range(before, before + N_PATCHES)))
        for name, column in alone.items():
            assert again[name] == pytest.approx(column, nan_ok=True), name


def test_its_null_is_that_of_patches_dealt_out() -> None:
    z = np.concatenate([measured(some_codes(seed), list(range(N_PATCHES)))["moran_z"]
                        for seed in range(25)])  # fmt: skip
    assert len(z) == 200 and abs(z.mean()) < 0.25 and 0.8 < z.std() < 1.2


def test_a_latent_of_one_half_stands_out() -> None:
    codes = some_codes(1)
    codes[:, :, 0] = 0
    codes[:, :21, 0] = 1
    found = measured(codes, list(range(N_PATCHES)))
    assert found["moran"][0] > 0.7 and found["moran_z"][0] > 20
    assert (found["moran_z"][1:] < 5).all()


@pytest.mark.parametrize("patches", [[0], list(range(N_PATCHES - 1))])
def test_without_a_whole_grid_nothing_is_measured(patches: list[int]) -> None:
    found = measured(some_codes(2), patches)
    assert np.isnan(found["moran"]).all() and np.isnan(found["moran_z"]).all()
    assert (found["moran_images"] == 0).all()
