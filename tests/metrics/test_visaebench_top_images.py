"""Likeness of the strongest images by loops over pairs, and its exact null."""

import itertools

import numpy as np
import pytest

from saev.metrics.visaebench.top_image_similarity import top_image_null, top_image_similarity
from saev.stats.bootstrap import bootstrap_interval


def planted(n: int = 60, s: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Image codes of which each latent prefers a kind, and embeddings around the kinds."""
    rng = np.random.default_rng(seed)
    kind = np.arange(n) % 4
    codes = rng.random((n, s)) * (rng.random((n, s)) < 0.5)
    codes *= 1 + 3 * (kind[:, None] == np.arange(s) % 4)
    codes[:, 3] = 0
    codes[:, 5] = np.arange(n) == 7
    embedding = rng.normal(size=(4, 8))[kind] + rng.normal(size=(n, 8)) * 0.5
    return codes.astype(np.float32), embedding


def slow_similarity(code_n: np.ndarray, embedding: np.ndarray, top: int) -> float:
    weight = (code_n - code_n.min()) / (code_n.max() - code_n.min())
    first = sorted(range(len(code_n)), key=lambda image: -code_n[image])[:top]
    up, down = 0.0, 0.0
    for one, other in itertools.combinations(first, 2):
        a, b = embedding[one], embedding[other]
        both = float(weight[one] * weight[other])
        up += both * float(a @ b) / float(np.linalg.norm(a) * np.linalg.norm(b))
        down += both
    return up / down


@pytest.mark.parametrize("top", [2, 16, 100])
def test_is_the_loop(top: int) -> None:
    codes, embedding = planted()
    found = top_image_similarity(codes, embedding, top_images=top)
    assert found.latents_k.tolist() == [0, 1, 2, 4, 6, 7, 8, 9, 10, 11], "dead, and of one image"
    for latent, value in zip(found.latents_k, found.per_latent_k, strict=True):
        assert value == pytest.approx(slow_similarity(codes[:, latent], embedding, top), abs=1e-5)
    assert found.value == pytest.approx(found.per_latent_k.mean())
    assert found.value > found.chance + 0.05


def test_range_and_invariances() -> None:
    codes, embedding = planted()
    found = top_image_similarity(codes, embedding)
    assert (np.abs(found.per_latent_k) <= 1).all()
    longer = embedding * np.random.default_rng(0).uniform(0.1, 9, (60, 1))
    for other in (
        top_image_similarity(codes * 7, embedding),
        top_image_similarity(codes, longer),
        top_image_similarity(codes[::-1].copy(), embedding[::-1].copy()),
    ):
        np.testing.assert_allclose(other.per_latent_k, found.per_latent_k, atol=1e-6)
    alike = top_image_similarity(codes, np.ones((60, 3)))
    np.testing.assert_allclose(alike.per_latent_k, 1)
    assert alike.chance == pytest.approx(1)


def test_chance_is_the_mean_over_permutations() -> None:
    codes, embedding = planted()
    rng = np.random.default_rng(0)
    drawn = [top_image_null(codes, embedding, rng).per_latent_k for _ in range(300)]
    expected = top_image_similarity(codes, embedding).chance
    np.testing.assert_allclose(np.mean(drawn, 0), expected, atol=0.03)
    assert np.mean(drawn) == pytest.approx(expected, abs=5e-3)
    once, again = (
        top_image_null(codes, embedding, np.random.default_rng(3)).value for _ in range(2)
    )
    assert once == again


def test_drawn_none_and_wrong() -> None:
    codes, embedding = planted()
    found = top_image_similarity(codes, embedding, max_latents=4)
    assert len(found.latents_k) <= 4
    assert np.isnan(top_image_similarity(codes * 0, embedding).value)
    with pytest.raises(ValueError, match="one each"):
        top_image_similarity(codes, embedding[1:])


def test_draws_weigh_pairs_of_images() -> None:
    codes, embedding = planted()
    found = top_image_similarity(codes, embedding)
    weight = np.random.default_rng(0).multinomial(60, np.full(60, 1 / 60), 2).astype(float)
    for row, drawn in zip(weight, found.resampled(weight), strict=True):
        means = []
        for at, latent in enumerate(found.latents_k):
            own, first = codes[:, latent], found.top_kt[at]
            scaled = (own - own.min()) / (own.max() - own.min()) * row
            up = down = 0.0
            for one, other in itertools.combinations(first, 2):
                a, b = embedding[one], embedding[other]
                cosine = float(a @ b) / float(np.linalg.norm(a) * np.linalg.norm(b))
                up, down = (
                    up + scaled[one] * scaled[other] * cosine,
                    down + scaled[one] * scaled[other],
                )
            means.append(up / down)
        assert drawn == pytest.approx(np.mean(means), abs=1e-5)
    assert found.resampled(np.ones((1, 60)))[0] == pytest.approx(found.value)
    low, high, _ = bootstrap_interval(found.resampled, 60)
    assert low < found.value < high
    assert np.isnan(found.resampled(np.zeros((1, 60))))
