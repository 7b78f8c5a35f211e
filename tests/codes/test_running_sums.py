"""Running sums against dense codes; they add up in any order."""

import numpy as np
import pytest
import torch

from saev.codes.running_sums import LatentStatistics
from tests.fakes.codes import N_IMAGES, N_LATENTS, N_TOKENS, build, dense_codes

LABELS = np.array([0, 1, 2, 0, 1, 2, -1, 0, 1, 2, 0])


def gathered(spans: list[slice]) -> LatentStatistics:
    z = dense_codes()
    statistics = LatentStatistics(N_LATENTS, N_TOKENS, 3)
    for span in spans:
        statistics.update(build(z[span]), span.start or 0, LABELS[span])
    return statistics


def test_sums_of_dense_codes() -> None:
    z = dense_codes().numpy()
    s = gathered([slice(0, N_IMAGES)])
    np.testing.assert_array_equal(s.fired_s, (z > 0).sum((0, 1)))
    np.testing.assert_array_equal(s.fired_images_s, (z > 0).any(1).sum(0))
    np.testing.assert_allclose(s.sum_s, z.sum((0, 1)))
    np.testing.assert_allclose(s.squares_s, (z**2).sum((0, 1)))
    np.testing.assert_array_equal(s.max_s, z.max((0, 1)))
    np.testing.assert_array_equal(s.position_sp, (z > 0).sum(0).T)
    np.testing.assert_array_equal(s.histogram_sh.sum(1), s.fired_s)
    for c in range(3):
        np.testing.assert_allclose(s.mass_sc[:, c], z.max(1)[c == LABELS].sum(0))
    assert s.n_normal == N_IMAGES * N_TOKENS


def test_parts_merge_in_any_order() -> None:
    parts = [slice(0, 4), slice(4, 9), slice(9, 11)]
    one = gathered(parts)
    other = gathered([parts[2]])
    for part in (parts[0], parts[1]):
        other.merge(gathered([part]))
    for name, value in one.state().items():
        np.testing.assert_allclose(other.state()[name], value, err_msg=name)


def test_merging_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="n_latents"):
        gathered([slice(0, 4)]).merge(LatentStatistics(3, N_TOKENS, 3))


def test_quantiles_are_exact_to_within_a_bin() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(40, 50, 3, generator=generator).exp()
    statistics = LatentStatistics(3, 50)
    statistics.update(build(z), 0, np.full(40, -1))
    exact = np.quantile(z.flatten(0, 1).numpy(), [0.5, 0.9, 0.99], axis=0).T
    np.testing.assert_allclose(statistics.quantiles(), exact, rtol=0.1)


def test_position_information_of_a_place_and_of_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.zeros(300, 10, 3)
    z[:, 2, 0] = 1  # fires at one place, always
    z[..., 1] = (torch.rand(300, 10, generator=generator) < 0.3).float()
    statistics = LatentStatistics(3, 10)
    statistics.update(build(z), 0, np.full(300, -1))
    information = statistics.position_information()
    assert information[0] > 0.95
    assert information[1] < 0.005
    assert information[2] == 0, "a latent that never fires depends on nothing"


def test_coactivation_sketch_is_near_the_cosine_of_firing() -> None:
    generator = torch.Generator().manual_seed(0)
    fires = (torch.rand(60, 20, 6, generator=generator) < 0.3).float()
    fires[..., 1] = fires[..., 0]
    statistics = LatentStatistics(6, 20)
    statistics.update(build(fires), 0, np.full(60, -1))
    flat = fires.flatten(0, 1).numpy()
    norm = np.sqrt(flat.sum(0))
    exact = flat.T @ flat / norm[:, None] / norm
    found = statistics.coactivation(np.arange(6))
    assert np.abs(found - exact).max() < 4 / np.sqrt(256)
    assert found[0, 1] == pytest.approx(1, abs=0.25)
