"""The control is mis-paired among images that are alike, and is not beaten by what they all share."""

import numpy as np
import pytest

from saev.comparison.matching import match
from saev.comparison.strata import STRATUM, activity, like_images, mispaired
from saev.concepts.ranked_codes import CodeEntries
from tests.fakes.codes import sparse_codes


def with_gain(kind: str, seed: int, n_images: int = 400, n_latents: int = 400) -> list[CodeEntries]:
    """Two dictionaries of independent latents on images that differ in how much they set off."""
    rng = np.random.default_rng(seed)
    gain = np.exp(0.35 * rng.standard_normal((n_images, 1)))
    found = []
    for _ in range(2):
        noise = rng.standard_normal((n_images, n_latents))
        values = {"rectified": np.maximum(noise, 0) * gain, "dense": np.abs(noise) * gain,
                  "rate": np.maximum(noise + np.log(gain) - 0.8, 0)}  # fmt: skip
        found.append(sparse_codes(values[kind]))
    return found


@pytest.mark.parametrize("kind", ["rectified", "dense", "rate"])
def test_latents_that_share_a_gain_alone_are_not_matched(kind: str) -> None:
    one, two = with_gain(kind, 0)
    naive, _ = match(one, two, n_draws=10)
    assert (naive.q <= 0.05).mean() > 0.15, "the case that is meant"
    strata = like_images(one, two, np.zeros(400, int))
    for found in match(one, two, strata=strata, n_draws=10):
        assert (found.q <= 0.05).mean() <= 0.05
        assert (found.p <= 0.05).mean() <= 0.12


def test_latents_of_one_source_alone_are_not_matched() -> None:
    """Half of the latents of either dictionary fire on the images of one source, at random."""
    rng = np.random.default_rng(0)
    source = np.repeat([0, 1], 100)
    rate = np.where(source[:, None] == np.arange(60) % 2, 0.5, 0.02)
    one, two = (sparse_codes((rng.random((200, 60)) < rate) * 1.0) for _ in range(2))
    naive, _ = match(one, two, n_draws=20)
    assert (naive.q <= 0.05).mean() > 0.5
    found, _ = match(one, two, strata=like_images(one, two, source), n_draws=20)
    assert (found.q <= 0.05).mean() <= 0.05


def test_true_partners_are_found_in_spite_of_strata() -> None:
    one = with_gain("rectified", 1, 200, 40)[0]
    rng = np.random.default_rng(2)
    dense = np.zeros((200, 40))
    dense[one.row, one.latent] = one.value
    noisy = sparse_codes(dense[:, ::-1] * rng.uniform(0.5, 1.5, dense.shape))
    found, back = match(one, noisy, strata=like_images(one, noisy, np.zeros(200, int)), n_draws=20)
    for way in (found, back):
        assert (way.q <= 0.05).all() and way.partner.tolist() == list(range(40))[::-1]


def test_strata_are_of_one_source_and_like_activity() -> None:
    one, two = with_gain("dense", 3, 95, 50)
    source = np.repeat([0, 1, 2], [60, 34, 1])
    stratum = like_images(one, two, source)
    assert {len(set(source[stratum == k])) for k in np.unique(stratum)} == {1}
    sizes = np.unique(stratum[source < 2], return_counts=True)[1]
    assert (sizes >= STRATUM).all() and (sizes < 2 * STRATUM).all()
    both = activity(one) + activity(two)
    within = [both[stratum == k].std() for k in np.unique(stratum[source < 2])]
    assert np.mean(within) < 0.4 * both[source < 2].std()


def test_an_image_meets_another_of_its_stratum() -> None:
    stratum = np.random.default_rng(0).integers(0, 5, 60)
    stratum[7] = 9  # alone
    orders = [mispaired(stratum, np.random.default_rng(i)) for i in range(20)]
    for order in orders:
        assert sorted(order) == list(range(60))
        assert (stratum[order] == stratum).all()
        assert (order == np.arange(60)).nonzero()[0].tolist() == [7]
    assert len({tuple(order) for order in orders}) == 20


def test_activity_is_the_sum_of_codes_in_units_of_their_latent() -> None:
    dense = np.array([[1.0, 0], [0, 10], [1, 0], [1, 10]])
    exact = (dense / np.sqrt((dense**2).mean(0))).sum(1)
    np.testing.assert_allclose(activity(sparse_codes(dense)), exact, rtol=1e-6)
    np.testing.assert_allclose(
        activity(sparse_codes(dense), 2), exact.reshape(2, 2).sum(1), rtol=1e-6
    )
