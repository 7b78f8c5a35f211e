"""Selectors against slow, obvious implementations."""

import itertools

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn import metrics

from saev.errors import UserError
from saev.intervention.choose.code_table import CodeTable, StatsBuilder
from saev.intervention.choose.selectors import (
    auroc_scores,
    average_precision_scores,
    effect_scores,
    f1_scores,
    greedy_set,
    logistic_scores,
    score_latents,
    select_latents,
)

N, S, C = 90, 7, 3


@pytest.fixture(scope="module")
def dense() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, C, N)
    codes = np.where(rng.random((N, S)) < 0.3, rng.random((N, S)), 0.0)
    codes[:, 0] = np.where(labels == 1, 1 + rng.random(N), 0.0)  # knows class 1
    codes[:, 6] = 0.0  # dead
    return codes.astype(np.float32), labels


@pytest.fixture(scope="module")
def table(dense) -> CodeTable:
    return CodeTable(csr_matrix(dense[0]), dense[1])


def slow_f1(code, is_class):
    return max(
        2 * (is_class & (code >= t)).sum() / ((code >= t).sum() + is_class.sum())
        for t in code[code > 0]
    )


def slow_auroc(code, is_class):
    pairs = itertools.product(code[is_class], code[~is_class])
    return np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs])


def slow_average_precision(code, is_class):
    total = 0.0
    for t in sorted(set(code), reverse=True):
        at = code == t
        above = code >= t
        total += (is_class & at).sum() * (is_class & above).sum() / above.sum()
    return total / is_class.sum()


@pytest.mark.parametrize(
    "fast, slow, silent",
    [
        (f1_scores, slow_f1, 0.0),
        (auroc_scores, slow_auroc, 0.5),
        (average_precision_scores, slow_average_precision, None),
    ],
)
def test_scores(table, dense, fast, slow, silent):
    codes, labels = dense
    scores = fast(table, C)
    for latent, label in itertools.product(range(S - 1), range(C)):
        assert scores[latent, label] == pytest.approx(slow(codes[:, latent], labels == label))
    null = np.bincount(labels) / N if silent is None else silent
    np.testing.assert_allclose(scores[6], null)


@pytest.mark.parametrize(
    "fast, slow",
    [
        (f1_scores, slow_f1),
        (auroc_scores, slow_auroc),
        (average_precision_scores, slow_average_precision),
    ],
)
def test_equal_codes_are_one_threshold(fast, slow):
    """Whatever the order of the units: a threshold takes all units of one code or none."""
    rng = np.random.default_rng(2)
    labels = np.sort(rng.integers(0, C, N))
    codes = (rng.integers(0, 4, (N, S)) * (rng.random((N, S)) < 0.6)).astype(np.float32)
    for order in (np.arange(N), np.arange(N)[::-1]):
        scores = fast(CodeTable(csr_matrix(codes[order]), labels[order]), C)
        for latent, label in itertools.product(range(S), range(C)):
            expected = slow(codes[:, latent], labels == label)
            assert scores[latent, label] == pytest.approx(expected)


def test_rounded_codes_score_as_in_scikit_learn():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, C, N)
    codes = np.round(rng.exponential(size=(N, S)) * (rng.random((N, S)) < 0.5), 1)
    codes = codes.astype(np.float32)
    table = CodeTable(csr_matrix(codes), labels)
    f1, auroc, ap = (
        score(table, C) for score in (f1_scores, auroc_scores, average_precision_scores)
    )
    for latent, label in itertools.product(range(S), range(C)):
        code, is_class = codes[:, latent], labels == label
        precision, recall, threshold = metrics.precision_recall_curve(is_class, code)
        f1_t = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        assert f1[latent, label] == pytest.approx(f1_t[:-1][threshold > 0].max())
        assert auroc[latent, label] == pytest.approx(metrics.roc_auc_score(is_class, code))
        assert ap[latent, label] == pytest.approx(metrics.average_precision_score(is_class, code))


@pytest.mark.parametrize("method", ["f1", "auroc", "average_precision", "logistic", "greedy"])
def test_every_selector_finds_the_planted_latent(table, method):
    scores = score_latents(method, table, C)
    alive = np.arange(S - 1)
    assert select_latents(method, table, scores, 1, 1, alive) == (0,)
    three = select_latents(method, table, scores, 1, 3, alive)
    assert len(set(three)) == 3 and three[0] == 0


def test_a_class_without_units_scores_nothing(table):
    assert np.isneginf(f1_scores(table, C + 1)[:, C]).all()


def test_unlabelled_units_do_not_count(dense):
    codes, labels = dense
    more = np.vstack([codes, np.ones((5, S))])
    with_unlabelled = CodeTable(csr_matrix(more), np.append(labels, [-1] * 5))
    np.testing.assert_array_equal(
        f1_scores(with_unlabelled, C), f1_scores(CodeTable(csr_matrix(codes), labels), C)
    )


def test_rare_latents_are_not_scored():
    codes = np.zeros((10, 1))
    codes[:2] = 1.0
    table = CodeTable(csr_matrix(codes), np.array([0, 0] + [1] * 8))
    assert f1_scores(table, 2)[0, 0] == 0.0


def test_greedy_takes_the_complement_not_the_second_best():
    labels = np.array([1] * 6 + [0] * 6)
    codes = np.zeros((12, 3))
    codes[:4, 0] = 1.0  # four of six
    codes[:4, 1] = 0.9  # the same four
    codes[4:6, 2] = 1.0  # the other two
    table = CodeTable(csr_matrix(codes), labels)
    assert greedy_set(table, 1, np.array([3.0, 2.0, 1.0]), 2) == [0, 2]


def test_dead_latents_are_never_selected(table):
    scores = np.zeros((S, C))
    scores[6] = 9.0
    assert 6 not in select_latents("f1", table, scores, 0, 3, np.arange(S - 1))


def test_logistic_weighs_by_what_a_latent_can_do(table):
    scores = logistic_scores(table, C)
    assert scores[0].argmax() == 1


def test_unknown_selector(table):
    with pytest.raises(UserError, match="magic"):
        score_latents("magic", table, C)


def test_stats(dense):
    builder = StatsBuilder(S)
    builder.update(dense[0][:50])
    builder.update(dense[0][50:])
    stats = builder.compute()
    np.testing.assert_allclose(stats.rate, (dense[0] > 0).mean(0))
    np.testing.assert_allclose(stats.largest, dense[0].max(0))
    for latent in range(S - 1):
        column = dense[0][:, latent]
        assert stats.mean[latent] == pytest.approx(column[column > 0].mean())
    assert stats.mean[6] == 0 and 6 not in stats.alive


def test_other_labels_on_the_same_units(dense):
    codes, labels = dense
    labels = np.where(np.arange(N) < 4, -1, labels)
    shuffled = labels.copy()
    shuffled[4:] = np.random.default_rng(1).permutation(labels[4:])
    one = CodeTable(csr_matrix(codes), labels)
    np.testing.assert_array_equal(
        f1_scores(one.relabelled(shuffled), C),
        f1_scores(CodeTable(csr_matrix(codes), shuffled), C),
    )
    with pytest.raises(ValueError, match="missing"):
        one.relabelled(np.roll(labels, 1))


def test_effects_count_among_those_that_fit_best():
    fits = np.array([[0.9, -np.inf], [0.8, -np.inf], [0.1, -np.inf], [0.0, -np.inf]])
    effects = np.array([[1.0, 5.0], [3.0, 5.0], [9.0, 5.0], [99.0, 5.0]])
    found = effect_scores(fits, effects, among=2)
    assert found[:, 0].tolist() == [1.0, 3.0, -np.inf, -np.inf]
    assert np.isneginf(found[:, 1]).all()  # a class that nothing is known of
    assert effect_scores(fits, effects, among=9)[:, 0].tolist() == effects[:, 0].tolist()
