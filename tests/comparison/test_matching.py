"""Partners are found from either side, and the mis-paired control is not fooled."""

import numpy as np
import pytest

from saev.comparison import matching
from saev.comparison.matching import jaccard, match, match_exemplars
from tests.fakes.codes import sparse_codes


def random_codes(n_rows: int, n_latents: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.exponential(size=(n_rows, n_latents)) * (rng.random((n_rows, n_latents)) < 0.2)


def test_shuffled_latents_are_matched_back_and_noise_is_not() -> None:
    dense = random_codes(200, 12, 0)
    order = np.random.default_rng(1).permutation(8)
    noise = random_codes(200, 4, 2)
    other = np.hstack([2 * dense[:, order], noise])  # the last four latents have no partner
    found, back = match(sparse_codes(dense), sparse_codes(other), n_draws=80)
    assert order[found.partner[:8]].tolist() == list(range(8))
    assert found.similarity[:8] == pytest.approx(1, abs=5e-6)  # float32
    assert found.mutual[:8].all()
    assert (found.q[:8] <= 0.05).all()
    assert (found.q[8:] > 0.05).all()
    assert (found.similarity[8:] < found.null[8:] * 1.4).all()
    assert back.partner[:8].tolist() == order.tolist()
    assert (back.q[8:] > 0.05).all(), "noise has no partner from the other side either"


def test_correlation_is_pearsons() -> None:
    one, two = random_codes(50, 3, 0), random_codes(50, 5, 1)
    found, back = match(sparse_codes(one), sparse_codes(two), n_draws=2)
    exact = np.corrcoef(one.T, two.T)[:3, 3:]
    np.testing.assert_allclose(found.similarity, exact.max(1), atol=5e-6)
    np.testing.assert_array_equal(found.partner, exact.argmax(1))
    np.testing.assert_allclose(back.similarity, exact.max(0), atol=5e-6)
    np.testing.assert_array_equal(back.partner, exact.argmax(0))


@pytest.mark.parametrize("sparse_below", [0.0, 1.0])
def test_dense_and_sparse_products_and_blocks_agree(monkeypatch, sparse_below: float) -> None:
    one, two = (sparse_codes(random_codes(60, n, n)) for n in (7, 5))
    whole = match(one, two, n_draws=3)
    monkeypatch.setattr(matching, "BLOCK", 2)
    monkeypatch.setattr(matching, "SPARSE_BELOW", sparse_below)
    for way, again in zip(whole, match(one, two, n_draws=3), strict=True):
        for value, other in zip(way, again, strict=True):
            np.testing.assert_allclose(value, other, atol=5e-6)


def test_tokens_of_an_image_stay_together_in_the_control() -> None:
    """Whole images repeat one of two layouts: patches match under any order of images."""
    layout = np.tile(np.repeat([1.0, 0.0], 3), 40)[:, None]
    codes = sparse_codes(np.hstack([layout, 1 - layout]))
    together, _ = match(codes, codes, n_draws=10, block_rows=6)
    assert (together.q > 0.05).all(), "a latent that knows the place alone has no partner"
    apart, _ = match(codes, codes, n_draws=30, block_rows=1)
    assert (apart.q < 0.05).all()


def test_dead_latents_have_no_partner_and_are_none() -> None:
    one, two = random_codes(50, 3, 0), random_codes(50, 3, 1)
    one[:, 1], two[:, 2] = 0, 0
    found, back = match(sparse_codes(one), sparse_codes(two), n_draws=2)
    assert back.partner[2] == -1 and 1 not in back.partner
    assert found.partner[1] == -1 and np.isnan(found.similarity[1])
    assert 2 not in found.partner


def test_different_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="same rows"):
        match(sparse_codes(random_codes(5, 2, 0)), sparse_codes(random_codes(6, 2, 0)))


def test_overlap_by_hand() -> None:
    assert jaccard([1, 2, 3], [2, 3, 4]) == 0.5
    assert np.isnan(jaccard([], []))


def test_exemplars_find_their_partners_and_unrelated_ones_do_not() -> None:
    rng = np.random.default_rng(0)
    first = [sorted(rng.choice(300, 8, replace=False).tolist()) for _ in range(10)]
    second = [[*first[4][:7], 299], *([sorted(rng.choice(300, 8, replace=False).tolist())] * 2), []]
    found, back = match_exemplars([*first, []], second, 300, n_draws=400)
    assert found.partner[4] == 0 and found.mutual[4]
    assert found.similarity[4] == pytest.approx(jaccard(first[4], second[0]))
    assert found.q[4] <= 0.05
    assert (np.delete(found.q, [4, 10]) > 0.05).all()
    assert found.partner[10] == -1 and back.partner[3] == -1, "empty sets match nothing"
    assert back.partner[0] == 4
