"""Scores of all pairs against scikit-learn, pair by pair."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.metrics import average_precision_score, f1_score, jaccard_score, roc_auc_score

from saev.concepts.pair_scores import at_thresholds, coverage_at, purity_at, score_pairs
from tests.fakes.codes import random_codes, sparse_codes


def random_labels(n_rows: int, n_concepts: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, 1])
    labels = (rng.random((n_rows, n_concepts)) < 0.3).astype(float)
    labels[0], labels[1] = 1, 0  # every concept has both kinds of rows
    return labels


@settings(max_examples=10, deadline=None)
@given(n_rows=st.integers(4, 60), n_latents=st.integers(1, 4), seed=st.integers(0, 9999))
def test_equal_scikit_learn(n_rows: int, n_latents: int, seed: int) -> None:
    dense = random_codes(n_rows, n_latents, seed)
    labels = random_labels(n_rows, 3, seed)
    scores = score_pairs(sparse_codes(dense), sparse.csr_matrix(labels))
    for latent in range(n_latents):
        for concept in range(3):
            x, y = dense[:, latent], labels[:, concept]
            at = (latent, concept)
            assert scores.auroc[at] == pytest.approx(roc_auc_score(y, x))
            assert scores.ap[at] == pytest.approx(average_precision_score(y, x))
            r = np.corrcoef(x, y)[0, 1] if x.std() > 0 else 0.0
            assert scores.r[at] == pytest.approx(r, abs=1e-9)
            thresholds = np.unique(x[x > 0])
            f1 = [f1_score(y, x >= t) for t in thresholds]
            assert scores.f1[at] == pytest.approx(max(f1, default=0.0))
            if scores.f1[at] > 0:
                found = f1_score(y, x >= scores.threshold[at])
                assert found == pytest.approx(scores.f1[at])


@settings(max_examples=10, deadline=None)
@given(n_rows=st.integers(4, 60), seed=st.integers(0, 9999))
def test_fixed_thresholds_equal_scikit_learn(n_rows: int, seed: int) -> None:
    dense = random_codes(n_rows, 4, seed)
    labels = random_labels(n_rows, 3, seed)
    threshold = np.random.default_rng([seed, 2]).random((4, 3)) + 0.01
    scores = at_thresholds(sparse_codes(dense), sparse.csr_matrix(labels), threshold)
    for latent in range(4):
        for concept in range(3):
            predicted = dense[:, latent] >= threshold[latent, concept]
            y = labels[:, concept]
            assert scores.f1[latent, concept] == pytest.approx(f1_score(y, predicted))
            assert scores.iou[latent, concept] == pytest.approx(jaccard_score(y, predicted))


def test_shares_count_a_row_as_partly_positive() -> None:
    """A row with share w scores as if w of it were positive and 1 − w negative."""
    dense = random_codes(12, 3, seed=5)
    share = np.random.default_rng(0).integers(0, 5, (12, 1)) / 4
    scores = score_pairs(sparse_codes(dense), sparse.csr_matrix(share))
    copies = np.repeat(dense, 4, axis=0)  # four quarters of every row
    whole = (np.tile(np.arange(4), 12) < np.repeat(share[:, 0] * 4, 4)).astype(float)[:, None]
    expected = score_pairs(sparse_codes(copies), sparse.csr_matrix(whole))
    np.testing.assert_allclose(scores.auroc, expected.auroc, atol=1e-12)
    np.testing.assert_allclose(scores.f1, expected.f1, atol=1e-12)


def test_concept_without_positives_has_no_score() -> None:
    scores = score_pairs(sparse_codes(random_codes(9, 2, 0)), sparse.csr_matrix((9, 1)))
    assert np.isnan(scores.auroc).all() and np.isnan(scores.ap).all()


def test_purity_counts_the_strongest_rows() -> None:
    dense = np.array([[3.0, 0], [2, 0], [1, 0], [0, 1]], np.float32)
    labels = sparse.csr_matrix(np.array([[1.0], [1], [0], [0]]))
    assert purity_at(sparse_codes(dense), labels, k=2).tolist() == [[1.0], [0.0]]
    assert purity_at(sparse_codes(dense), labels, k=9)[0, 0] == pytest.approx(2 / 3)


def test_coverage_leaves_unknown_concepts_out() -> None:
    assert coverage_at(np.array([0.9, 0.1, np.nan]), tau=0.3) == 0.5


def test_restriction_to_rows_renumbers_them() -> None:
    dense = random_codes(10, 3, 7)
    rows = np.array([7, 2, 5])
    restricted = sparse_codes(dense).on(rows)
    again = np.zeros((3, 3), np.float32)
    again[restricted.row, restricted.latent] = restricted.value
    np.testing.assert_array_equal(again, dense[rows])
