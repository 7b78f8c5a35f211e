"""The table against baselines: sums equal the metrics, intervals are by image, verdicts follow a rule."""

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.metrics import roc_auc_score

from saev.concepts.best_latents import Concepts
from saev.defaults import defaults
from saev.evaluation.baselines.cells import (
    METRICS,
    PLAIN,
    Cell,
    cell,
    plain_cells,
    verdict,
    weights,
)
from saev.evaluation.baselines.concept_auroc import best_latent_auroc
from saev.evaluation.baselines.methods import BaselineSettings
from saev.evaluation.baselines.sums import (
    ImageSums,
    agreement,
    dead,
    dense,
    explained_variance,
    kl_recovered,
    l0,
    monosemanticity,
    nmse,
)
from saev.metrics import ReconstructionMetrics
from saev.metrics.monosemanticity import MonosemanticityScore
from saev.stats.bootstrap import interval, weighted_auroc

N_IMAGES, N_TOKENS, WIDTH, N_LATENTS = 12, 7, 5, 40


@pytest.fixture(scope="module")
def tokens() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Activations, reconstructions and codes, (images, tokens, …); some latents silent, some dense."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N_IMAGES, N_TOKENS, WIDTH, generator=generator) + 3
    x_hat = x + 0.3 * torch.randn(x.shape, generator=generator)
    z = torch.rand(N_IMAGES, N_TOKENS, N_LATENTS, generator=generator)
    level = torch.linspace(0.2, 1.1, N_LATENTS)
    return x, x_hat, torch.where(z > level, z, 0.0)


def sums_of(tokens: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> ImageSums:
    x, x_hat, z = (t.double() for t in tokens)
    error = (x - x_hat).square().sum(-1)
    shifted = x - 2.5
    return ImageSums(
        n_b=np.full(len(x), float(x.shape[1])), total_bd=shifted.sum(1).numpy(),
        squares_b=shifted.square().sum((1, 2)).numpy(), errors_b=error.sum(1).numpy(),
        ratios_b=(error / x.square().sum(-1)).sum(1).numpy(),
        active_b=(z > 0).sum((1, 2)).double().numpy(),
        fired_bs=sparse.csr_matrix((z > 0).sum(1).numpy()),
        strongest_bs=sparse.csr_matrix(z.amax(1).numpy()),
        kl_b=None, kl_mean_b=None, agrees_b=None,
    )  # fmt: skip


def test_weights_are_how_often_an_image_is_seen(tokens) -> None:
    """Every metric of a weighting equals the torchmetric on images repeated so often."""
    sums = sums_of(tokens)
    for weight_b in (np.ones(N_IMAGES), np.array([2, 0, 1, 3, 0, 0, 1, 1, 2, 0, 1, 1.0])):
        repeats = torch.from_numpy(weight_b).long()
        metric = ReconstructionMetrics(WIDTH, N_LATENTS)
        metric.update(*(t.repeat_interleave(repeats, 0).flatten(0, 1) for t in tokens))
        expected = metric.compute()
        for key, measure in (
            ("explained_variance", explained_variance), ("nmse", nmse), ("l0", l0),
            ("dead_fraction", dead), ("dense_fraction", dense),
        ):  # fmt: skip
            assert measure(sums, weight_b) == pytest.approx(float(expected[key]), rel=1e-6), key
    assert 0 < dead(sums, np.ones(N_IMAGES)) < 1 and 0 < dense(sums, np.ones(N_IMAGES)) < 1


def test_monosemanticity_leaves_out_an_image_and_its_copy(tokens) -> None:
    sums = sums_of(tokens)
    embedding = np.random.default_rng(0).normal(size=(N_IMAGES, 3)) + 1
    metric = MonosemanticityScore(N_LATENTS, 3)
    codes = sums.strongest_bs.tocoo()
    metric.update(
        torch.from_numpy(codes.col), torch.from_numpy(codes.row),
        torch.from_numpy(codes.data.astype(np.float32)),
        torch.from_numpy(embedding.astype(np.float32)),
    )  # fmt: skip
    found = metric.compute()
    trusted = found.support >= 10
    assert 0 < int(trusted.sum()) < N_LATENTS
    expected = float(found.corrected[trusted].mean())
    assert monosemanticity(sums, embedding, np.ones(N_IMAGES)) == pytest.approx(expected, abs=1e-5)
    # weights that are all alike say nothing new, though each image then has copies
    assert monosemanticity(sums, embedding, np.full(N_IMAGES, 3.0)) == pytest.approx(expected, 1e-4)
    few = np.zeros(N_IMAGES)
    few[:3] = 1
    assert np.isnan(monosemanticity(sums, embedding, few))


def test_fidelity_is_of_the_summed_divergences(tokens) -> None:
    sums = sums_of(tokens)
    assert np.isnan(kl_recovered(sums, np.ones(N_IMAGES)))
    assert np.isnan(agreement(sums, np.ones(N_IMAGES)))
    sums.kl_b, sums.kl_mean_b = np.arange(12.0), np.full(12, 10.0)
    sums.agrees_b = (np.arange(12) % 2).astype(float)
    assert kl_recovered(sums, np.ones(12)) == pytest.approx(1 - 66 / 120)
    assert agreement(sums, np.eye(12)[3] + np.eye(12)[2] * 3) == pytest.approx(0.25)


def test_weighted_auroc_is_that_of_repeated_images() -> None:
    rng = np.random.default_rng(1)
    value, label = rng.integers(0, 4, 30).astype(float), rng.random(30) < 0.4
    weight = rng.integers(0, 3, (5, 30)).astype(float)
    found = weighted_auroc(value, label, weight)
    for row, score in zip(weight, found, strict=True):
        again = np.repeat(np.arange(30), row.astype(int))
        assert score == pytest.approx(roc_auc_score(label[again], value[again]))
    assert np.isnan(weighted_auroc(value, label, np.zeros((1, 30)))).all()


def test_the_latent_is_chosen_on_other_images_than_it_is_scored_on() -> None:
    # Latent 0 tells the concept on the first half only, latent 1 on the second half only.
    label = np.tile([1.0, 0.0], 10)
    codes = np.zeros((20, 2))
    codes[:10, 0], codes[10:, 1] = label[:10], label[10:]
    splits = ["discovery"] * 10 + ["test"] * 10
    concepts = Concepts("s", "class", ["c", "none"], np.arange(20), splits,
                        sparse.csr_matrix(np.stack([label, 0 * label], 1)))  # fmt: skip
    ones = np.ones((1, 10))
    assert best_latent_auroc(sparse.csr_matrix(codes), concepts, ones) == pytest.approx([0.5])
    codes[:, 0] = label
    assert best_latent_auroc(sparse.csr_matrix(codes), concepts, ones) == pytest.approx([1.0])


def test_bootstrap_weights_hold_as_many_images_and_repeat_with_the_seed() -> None:
    drawn = weights(50, 10, seed=3)
    assert (drawn[0] == 1).all() and (drawn.sum(1) == 50).all()
    assert (drawn == weights(50, 10, seed=3)).all()
    assert (drawn[1:] != weights(50, 10, seed=4)[1:]).any()


def test_the_verdict_needs_every_random_control_beaten_beyond_chance() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=400)
    sae = Cell(1.0, 1.0 + noise)
    worse = Cell(0.5, 0.5 + noise)  # wide intervals overlap, but the difference is sure
    alike = Cell(0.9, 0.9 + rng.normal(size=400))
    better = Cell(1.5, 1.5 + noise)
    assert verdict(sae, {"worse": worse}, 1).separates is True
    assert verdict(sae, {"worse": worse}, -1).separates is False
    assert verdict(sae, {"worse": worse, "alike": alike}, 1) == (
        False, {"worse": True, "alike": False}
    )  # fmt: skip
    assert verdict(sae, {"better": better}, 1).separates is False
    assert verdict(sae, {"better": better}, -1).separates is True
    assert verdict(sae, {"twin": sae}, 1).separates is False
    assert verdict(sae, {"worse": worse}, 0).separates is None
    assert verdict(sae, {}, 1).separates is None
    unknown = cell("monosemanticity", np.full(10, np.nan))
    assert verdict(unknown, {"worse": worse}, 1).separates is None
    assert np.isnan(unknown.interval).all()


def test_an_interval_holds_its_own_estimate() -> None:
    """Latents just below the threshold of density, rates that differ over images: resampled shares
    lie above the share itself, so that they have no interval and no verdict."""
    rng = np.random.default_rng(0)
    n_images, n_tokens, n_latents = 30, 50, 400
    rate_bs = rng.beta(0.2, 2.2, (n_images, n_latents))
    fired_bs = rng.binomial(n_tokens, rate_bs).astype(float)
    fired_bs[:, :60] = np.eye(n_images)[:, np.arange(60) % n_images]  # one image each: nearly dead
    ones = np.full(n_images, float(n_tokens))
    sums = ImageSums(
        n_b=ones, total_bd=rng.normal(size=(n_images, 2)), squares_b=100 * ones, errors_b=9 * ones,
        ratios_b=ones * rng.uniform(0.1, 0.2, n_images), active_b=fired_bs.sum(1),
        fired_bs=sparse.csr_matrix(fired_bs), strongest_bs=sparse.csr_matrix(fired_bs),
        kl_b=None, kl_mean_b=None, agrees_b=None,
    )  # fmt: skip
    weight_rb = weights(n_images, 200, 0)
    resampled = cell("dead_fraction", np.array([dead(sums, w) for w in weight_rb]))
    assert resampled.value == 0 < resampled.interval[0], "the bias that is meant"
    keys = [key for key in PLAIN if key not in ("kl_recovered", "agreement")]
    cells = plain_cells({"sae": sums, "other": sums}, weight_rb, keys)
    sign = {metric.key: metric.sign for metric in METRICS}
    for key in keys:
        one = cells[key]["sae"]
        low, high = one.interval
        assert np.isnan(low) or low <= one.value <= high, key
        if key in ("dead_fraction", "dense_fraction"):
            assert one.value == PLAIN[key](sums, weight_rb[0]) and np.isnan(low)
            assert verdict(one, {"other": cells[key]["other"]}, sign[key]).separates is None
        else:
            assert low < high, key


def test_monosemanticity_s_interval_holds_its_estimate() -> None:
    """Latents of eleven images, the likest: where some of these count twice, fewer than ten are left, and
    the latent drops out of the mean."""
    rng = np.random.default_rng(0)
    group = np.arange(110) // 11
    embedding_be = np.eye(10)[group] + 0.1 * rng.normal(size=(110, 10))
    codes_bs = np.concatenate([np.eye(10)[group], rng.random((110, 10))], 1)
    ones = np.ones(110)
    sums = ImageSums(
        n_b=ones, total_bd=np.zeros((110, 2)), squares_b=ones, errors_b=ones, ratios_b=ones,
        active_b=ones, fired_bs=sparse.csr_matrix(codes_bs),
        strongest_bs=sparse.csr_matrix(codes_bs), kl_b=None, kl_mean_b=None, agrees_b=None,
    )  # fmt: skip
    drawn_r = np.array([monosemanticity(sums, embedding_be, w) for w in weights(110, 100, 0)])
    assert interval(drawn_r[1:])[1] < drawn_r[0], "the bias that is meant"
    found = cell("monosemanticity", drawn_r)
    low, high = found.interval
    assert low < found.value == drawn_r[0] < high
    assert high - low == pytest.approx(np.subtract(*interval(drawn_r[1:])[::-1]))


def settings(**changes: object) -> BaselineSettings:
    return BaselineSettings(**{**defaults("evaluate", "baselines"), "seed": 0, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kinds": ["pca", "magic"]}, r"baselines\.kinds.*'magic'"),
        ({"kinds": "magic"}, "raw, random, pca"),
        ({"pool_images": 0}, "pool_images must be at least 1, got 0"),
        ({"n_bootstrap": 10}, "n_bootstrap must be at least 40"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        settings(**changes)


def test_what_is_asked_for() -> None:
    assert not settings().wanted
    assert settings(kinds="pca").chosen == ["pca"]
    assert len(settings(kinds="all").chosen) == 7
    assert settings(trained={"frozen": "x"}).wanted
