"""Nulls are where they should be, and false discoveries as rare as promised."""

import numpy as np
import pytest
from scipy import sparse, stats

from saev.concepts.max_null import (
    auroc_max_null,
    auroc_max_null_of_maps,
    permutation_p,
)
from saev.concepts.pair_scores import score_pairs
from saev.concepts.ranked_codes import CodeEntries
from saev.stats.correction import benjamini_hochberg, family_q
from tests.fakes.codes import random_codes, sparse_codes
from tests.fakes.uniform_p import tie_broken_p


def noise(n_rows: int, n_latents: int, seed: int) -> CodeEntries:
    dense = np.random.default_rng(seed).random((n_rows, n_latents)).astype(np.float32)
    return sparse_codes(dense)


def test_null_is_the_score_of_permuted_labels() -> None:
    """The shared null has the distribution of recomputing everything on permuted labels."""
    codes = sparse_codes(random_codes(60, 30, seed=1, levels=50))
    label = np.zeros(60)
    label[:10] = 1
    rng = np.random.default_rng(0)
    slow = [
        score_pairs(codes, sparse.csr_matrix(rng.permutation(label)[:, None])).auroc.max()
        for _ in range(300)
    ]
    null = auroc_max_null(codes, np.array([10]), 300)[0]
    assert stats.ks_2samp(slow, null).pvalue > 0.01


def test_best_of_many_random_latents_is_where_theory_puts_it() -> None:
    """One latent: AUROC ~ N(½, (N + 1)/(12 P (N − P))); the largest of K as K such draws."""
    codes = noise(400, 200, seed=2)
    null = auroc_max_null(codes, np.array([40]), 200)[0]
    sd = np.sqrt(401 / (12 * 37 * 363))  # 40 positives use the null of the grid point below, 37
    expected = 0.5 + sd * stats.norm.ppf(0.5 ** (1 / 200))
    assert np.median(null) == pytest.approx(expected, abs=0.01)


def test_p_values_of_a_best_random_latent_are_uniform() -> None:
    codes = noise(100, 20, seed=3)
    null = auroc_max_null(codes, np.array([20]), 199)
    rng = np.random.default_rng(4)
    labels = np.stack([rng.permutation(np.arange(100) < 19) for _ in range(150)], 1).astype(float)
    best = score_pairs(codes, sparse.csr_matrix(labels)).auroc.max(0)
    p = permutation_p(best, np.repeat(null, 150, axis=0))
    assert stats.kstest(p, "uniform").pvalue > 0.01


def rarely_firing(rng: np.random.Generator) -> CodeEntries:
    dense = (rng.random((400, 300)) < 0.02) * rng.random((400, 300))
    return sparse_codes(dense.astype(np.float32))


def nearly_always_firing(rng: np.random.Generator) -> CodeEntries:
    """With one value: two ties, of which the silent one is the small one."""
    return sparse_codes((rng.random((400, 60)) < rng.uniform(0.9, 0.995, 60)).astype(np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("n_positives", [20, 200, 300, 380])
@pytest.mark.parametrize("latents", [rarely_firing, nearly_always_firing])
def test_five_percent_of_random_labellings_pass_however_many_are_positive(
    latents, n_positives: int
) -> None:
    """With ties broken at random, as the best of latents that fire alike takes a handful of values."""
    rng = np.random.default_rng(6)
    codes = latents(rng)
    labels = np.stack([rng.permutation(np.arange(400) < n_positives) for _ in range(400)], 1)
    best = np.concatenate(
        [
            score_pairs(codes, sparse.csr_matrix(part.astype(float))).auroc.max(0)
            for part in np.array_split(labels, 8, axis=1)
        ]
    )
    null = auroc_max_null(codes, np.array([n_positives]), 999)
    broken = [tie_broken_p(one, null[0].round(6), rng) for one in best.round(6)]
    assert 0.02 <= np.mean(np.array(broken) <= 0.05) <= 0.08
    p = permutation_p(best, np.repeat(null, 400, axis=0))
    assert np.mean(p <= 0.05) <= 0.08


def test_a_concept_on_most_rows_has_the_null_of_most_rows() -> None:
    """Every latent fires on 399 rows of 400: with 380 positives the silent row is a negative in one
    labelling of 20, and then AUROC is ½ + ½ · 1/20."""
    codes = sparse_codes((1 - np.eye(400, 1)).astype(np.float32))
    null = auroc_max_null(codes, np.array([380]), 400)
    assert null.max() == pytest.approx(0.5 + 0.5 / 20)
    assert null.min() == pytest.approx(0.5 - 0.5 / 380)
    assert np.mean(null > 0.5) == pytest.approx(1 / 20, abs=0.03)


def test_p_counts_draws_at_least_as_large() -> None:
    null = np.array([[0.5, 0.6, 0.7, 0.8]])
    p = permutation_p(np.array([[0.75], [0.9], [0.1], [0.7]]), null)
    assert p[:, 0].tolist() == [2 / 5, 1 / 5, 1.0, 3 / 5]


def test_maps_that_move_keep_their_layout() -> None:
    """A latent that knows only a place scores under the null as well as with the true labels."""
    images, places = np.repeat(np.arange(20), 4), np.tile(np.arange(4), 20)
    dense = (places == 0).astype(np.float32)[:, None]
    labels = sparse.csr_matrix((places == 0).astype(float)[:, None])
    null = auroc_max_null_of_maps(sparse_codes(dense), labels, images, places, 20)
    assert null.min() == pytest.approx(1.0)


@pytest.mark.parametrize("per_label", [0, 10**6])
def test_maps_without_a_table_score_as_with_one(monkeypatch: pytest.MonkeyPatch, per_label) -> None:
    """Both ways of adding ranks up equal recomputing every score on the moved labels."""
    monkeypatch.setattr("saev.concepts.max_null.CONCEPTS_PER_LABEL", per_label)
    rng = np.random.default_rng(5)
    images, places = np.repeat(np.arange(6), 5), np.tile(np.arange(5), 6)
    kept = rng.random(30) < 0.8  # some patches are not usable
    dense = random_codes(30, 7, seed=8)[kept]
    labels = sparse.csr_matrix((rng.random((30, 3)) < 0.4) * rng.random((30, 3)))
    codes = sparse_codes(dense)
    null = auroc_max_null_of_maps(codes, labels[kept], images[kept], places[kept], 4, seed=1)
    rng = np.random.default_rng(1)
    for draw in range(4):
        donor = rng.permutation(6)[images] * 5 + places
        moved = labels[donor].multiply(kept[donor][:, None]).tocsr()[kept]
        slow = score_pairs(codes, sparse.csr_matrix(moved)).auroc.max(0)
        np.testing.assert_allclose(null[:, draw], slow, atol=1e-6)


def test_benjamini_hochberg_by_hand() -> None:
    q = benjamini_hochberg(np.array([0.01, np.nan, 0.04, 0.03]))
    assert q[[0, 2, 3]].tolist() == pytest.approx([0.03, 0.04, 0.04])
    assert np.isnan(q[1])


def test_family_q_of_the_chosen_latents_is_benjamini_hochberg() -> None:
    rng = np.random.default_rng(0)
    best = rng.random(30) ** 3
    p = np.stack([best, np.minimum(best * 1.7, 1)])
    q = family_q(p, best)
    np.testing.assert_allclose(q[0], benjamini_hochberg(best))
    assert (q[1] >= q[0]).all()
