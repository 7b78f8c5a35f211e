"""The one-pass score against the double loop over image pairs, and against its chance level."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from saev.metrics.monosemanticity import (
    MonosemanticityScore,
    clarity,
    gamma_level,
    redundancy,
    uniqueness,
)


def double_loop(codes: np.ndarray, embedding: np.ndarray) -> np.ndarray:
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    result = []
    for a in codes.T:
        scaled = (a - a.min()) / (a.max() - a.min()) if a.max() > a.min() else a * 0
        top = bottom = 0.0
        for n in range(len(a)):
            for m in range(n):
                r = scaled[n] * scaled[m]
                top, bottom = top + r * float(unit[n] @ unit[m]), bottom + r
        result.append(top / bottom if bottom > 0 else math.nan)
    return np.array(result)


def data(n: int, s: int, e: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    codes = rng.exponential(size=(n, s)) * (rng.random((n, s)) < 0.4)
    codes[:, -1] = 0
    codes[0, -2:] = [1.0, 0.0]
    return codes, rng.standard_normal((n, e)) + 0.5


def score(codes: np.ndarray, embedding: np.ndarray, n_batches: int = 1) -> MonosemanticityScore:
    metric = MonosemanticityScore(codes.shape[1], embedding.shape[1])
    for z, e in zip(
        np.array_split(codes, n_batches), np.array_split(embedding, n_batches), strict=True
    ):
        image, latent = z.nonzero()
        metric.update(
            torch.tensor(latent),
            torch.tensor(image),
            torch.tensor(z[image, latent]),
            torch.tensor(e),
        )
    return metric


@pytest.mark.parametrize("n_batches", [1, 4])
def test_equals_the_double_loop(n_batches: int) -> None:
    codes, embedding = data(20, 7, 5)
    found = score(codes, embedding, n_batches).compute()
    np.testing.assert_allclose(found.ms.numpy(), double_loop(codes, embedding), atol=1e-10)
    assert math.isnan(found.ms[-1]), "a dead latent has no score"


def test_random_latents_stand_at_the_chance_level() -> None:
    rng = np.random.default_rng(1)
    codes = rng.exponential(size=(400, 200)) * (rng.random((400, 200)) < 0.3)
    found = score(codes, rng.standard_normal((400, 8)) + 0.6).compute()
    assert float(found.ms.mean()) == pytest.approx(float(found.chance), abs=0.003)
    assert float(found.corrected.mean()) == pytest.approx(0, abs=0.005)


def test_deviation_is_that_of_all_permutations() -> None:
    rng = np.random.default_rng(2)
    codes = rng.exponential(size=(5, 3))
    codes[[0, 1, 2, 0], [0, 1, 2, 2]] = 0  # the score takes the smallest code to be 0
    embedding = rng.standard_normal((5, 4))
    drawn = np.stack(
        [double_loop(codes, embedding[list(order)]) for order in itertools.permutations(range(5))]
    )
    found = score(codes, embedding, n_batches=2).compute()
    np.testing.assert_allclose(found.deviation.numpy(), drawn.std(0), rtol=1e-9)
    np.testing.assert_allclose(float(found.chance), drawn.mean(0), rtol=1e-9)


def test_five_percent_of_random_latents_pass_the_null() -> None:
    rng = np.random.default_rng(4)
    codes = rng.exponential(size=(300, 1000)) * (rng.random((300, 1000)) < 0.2)
    found = score(codes, rng.standard_normal((300, 6)) + 0.4).compute()
    assert 0.02 < float((found.ms > found.null).double().mean()) < 0.08


def drawn_scores(
    codes: np.ndarray, embedding: np.ndarray, n_draws: int, rng: np.random.Generator
) -> np.ndarray:
    """Draws × latents: the score with images permuted."""
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    orders = [rng.permutation(len(unit)) for _ in range(n_draws)]
    similar = np.stack([np.square(codes.T @ unit[order]).sum(1) for order in orders])
    squares = np.square(codes).sum(0)
    return (similar - squares) / (np.square(codes.sum(0)) - squares)


@pytest.mark.parametrize(
    ("n", "width", "offset", "density"),
    [(30, 5, 0.0, 0.4), (30, 5, 0.5, 0.4), (300, 6, 0.4, 0.2), (300, 6, 0.4, 0.05)],
)
def test_at_most_five_percent_of_true_permutations_exceed_the_null(
    n: int, width: int, offset: float, density: float
) -> None:
    rng = np.random.default_rng(5)
    codes = rng.exponential(size=(n, 40)) * (rng.random((n, 40)) < density)
    embedding = rng.standard_normal((n, width)) + offset
    found = score(codes, embedding).compute()
    beyond = drawn_scores(codes, embedding, 500, rng) > found.null.numpy()
    assert 0.015 <= beyond.mean() <= 0.055


def test_skewness_of_many_images_is_that_of_permutations() -> None:
    rng = np.random.default_rng(6)
    codes = rng.exponential(size=(600, 3)) + 0.2
    codes[0] = 0  # the score takes the smallest code to be 0
    embedding = rng.standard_normal((600, 4)) + np.array([0.15, 0, 0, 0])
    drawn = drawn_scores(codes, embedding, 4000, rng)
    found = score(codes, embedding).compute()
    np.testing.assert_allclose(found.skewness.numpy(), stats.skew(drawn), atol=0.2)
    assert (found.skewness > 0.5).all()


def test_levels_of_a_gamma_distribution() -> None:
    level = gamma_level(torch.tensor([0.0, 2.0, math.nan], dtype=torch.float64))
    assert level[:2].tolist() == pytest.approx([1.6449, -math.log(0.05) - 1], abs=1e-4)
    assert level[2].isnan()


def test_support_is_the_effective_number_of_images() -> None:
    codes = np.array([[1.0, 5.0], [1.0, 0], [1.0, 0], [1.0, 1e-6]])
    support = score(codes, np.eye(4)).compute().support
    assert support.tolist() == pytest.approx([4.0, 1.0], abs=1e-4)


def test_clarity_is_the_mean_cosine_over_pairs() -> None:
    _, embedding = data(6, 3, 4)
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    cosine = (unit @ unit.T)[np.triu_indices(6, 1)]
    assert clarity(embedding) == pytest.approx(cosine.mean())
    assert math.isnan(clarity(embedding[:1]))


def test_redundancy_of_twins_and_of_opposites() -> None:
    assert redundancy(np.array([[1.0, 0], [2.0, 0], [0, 1.0], [0, 3.0]])) == pytest.approx(1)
    assert redundancy(np.eye(3)) == pytest.approx(0)


def test_uniqueness_counts_pairs_by_hand() -> None:
    found = uniqueness([[1, 2, 3], [1, 2, 3], [3, 4, 5], [8], []])
    assert found.share_overlapping == pytest.approx(3 / 6)
    assert found.n_near_duplicates == 1
    assert found.unique == pytest.approx(2 / 4)
