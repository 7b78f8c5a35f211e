"""Shuffled labels of patches: what they keep, and that codes which know nothing do not beat them."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from saev.intervention.choose.code_table import CodeTable
from saev.intervention.choose.selectors import score_latents
from saev.intervention.judge.tally import Groups
from saev.intervention.readout import STRATUM, shuffled
from saev.stats.tests import rank_p
from tests.fakes.street import N_CLASSES, blind_codes, street_labels
from tests.fakes.uniform_p import tie_broken_p, uniformity_p

STREET = Groups(((0, N_CLASSES),))
SELECTORS = ("f1", "auroc", "average_precision")
"""Those that a fit is judged by; greedy and logistic choices are judged by F1."""


def street(seed: int, n_images: int = 30) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    rng = np.random.default_rng(seed)
    return *street_labels(rng, n_images), rng


def reshuffled(labels: np.ndarray, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return shuffled(labels[:, None], image, STREET, "patch", rng)[:, 0]


def best_fits(table: CodeTable, selectors: tuple[str, ...]) -> np.ndarray:
    """Selectors × classes."""
    return np.stack([score_latents(by, table, N_CLASSES).max(0) for by in selectors])


def fits_of(
    codes: csr_matrix,
    labels: np.ndarray,
    image: np.ndarray,
    n_draws: int,
    rng: np.random.Generator,
    selectors: tuple[str, ...] = SELECTORS,
) -> tuple[np.ndarray, np.ndarray]:
    """Best fits to the labels (selectors × classes), and to shuffled ones (draws last)."""
    table = CodeTable(codes, labels)
    null = [
        best_fits(table.relabelled(reshuffled(labels, image, rng)), selectors)
        for _ in range(n_draws)
    ]
    return best_fits(table, selectors), np.stack(null, -1)


def each_p(rank: Callable[[float, np.ndarray], float], observed, null) -> np.ndarray:
    """Selectors × classes."""
    flat = zip(observed.ravel(), null.reshape(observed.size, -1), strict=True)
    return np.array([rank(float(fit), draws) for fit, draws in flat]).reshape(observed.shape)


def test_regions_stay_regions_and_exchange_names_with_their_like():
    labels, image, rng = street(0)
    new = reshuffled(labels, image, rng)
    assert (new != labels).mean() > 0.3
    region, size = np.unique(image * N_CLASSES + labels, return_inverse=True, return_counts=True)[
        1:
    ]
    n_named = np.zeros((len(size), N_CLASSES), int)
    np.add.at(n_named, (region, new), 1)
    assert n_named.max(1).sum() >= 0.98 * len(labels)
    assert np.mean((n_named > 0).sum(1) == 1) >= 0.95
    before, after = labels[np.unique(region, return_index=True)[1]], n_named.argmax(1)
    by_size = size.argsort(kind="stable")
    exchanged = [
        sorted(before[rows]) == sorted(after[rows])
        for rows in np.array_split(by_size, np.arange(STRATUM, len(size), STRATUM))
    ]
    assert np.mean(exchanged) > 0.8  # the others hold a small region that changed hands afterwards


@pytest.mark.parametrize("seed", range(5))
def test_every_class_keeps_its_number_of_patches(seed: int):
    labels, image, rng = street(seed)
    np.testing.assert_array_equal(np.bincount(reshuffled(labels, image, rng)), np.bincount(labels))


def test_each_group_is_shuffled_and_backgrounds_and_unlabelled_units_are_not():
    rng = np.random.default_rng(0)
    groups = Groups(((0, 3), (3, 6)), frozenset({0, 3}))
    labels = np.stack([rng.integers(-1, 3, 400), rng.integers(2, 6, 400)], 1)
    labels[labels[:, 1] == 2, 1] = -1
    image = np.arange(400) // 20
    new = shuffled(labels, image, groups, "patch", rng)
    kept = np.isin(labels, [-1, 0, 3])
    np.testing.assert_array_equal(new[kept], labels[kept])
    for g, names in enumerate(([1, 2], [4, 5])):
        moved = new[~kept[:, g], g]
        assert set(moved) == set(names) and (moved != labels[~kept[:, g], g]).any()


def test_nothing_to_shuffle():
    none = np.full((5, 1), -1)
    np.testing.assert_array_equal(
        shuffled(none, np.arange(5), STREET, "patch", np.random.default_rng(0)), none
    )


def test_whole_images_are_permuted():
    labels, rng = np.arange(40)[:, None] % 4, np.random.default_rng(0)
    labels[7] = -1
    new = shuffled(labels, np.arange(40), Groups(((0, 4),)), "image", rng)
    assert new[7] == -1 and (np.bincount(new[new >= 0]) == np.bincount(labels[labels >= 0])).all()


def test_common_classes_are_not_found_in_codes_that_know_nothing():
    """Names permuted over all classes give 1/40 to the two commonest and 0.9 to three rare ones."""
    labels, image, rng = street(3, n_images=12)
    codes = blind_codes(labels, image, 100, "patch", rng)
    p = each_p(rank_p, *fits_of(codes, labels, image, 39, rng, ("f1",)))[0]
    assert p[:2].mean() > 0.1 and p[3:6].mean() < 0.8


def test_a_latent_that_knows_its_class_is_found_down_to_classes_of_forty_patches():
    labels, image, rng = street(3, n_images=16)
    codes = blind_codes(labels, image, 60, "patch", rng).toarray()
    for c in range(N_CLASSES):
        codes[:, c] = rng.random(len(labels)) < np.where(labels == c, 0.7, 0.02)
    p = each_p(rank_p, *fits_of(csr_matrix(codes), labels, image, 19, rng))
    assert (p[:, np.bincount(labels) >= 40] == 1 / 20).all()


@pytest.mark.slow
@pytest.mark.parametrize("by", ["patch", "region"])
def test_p_of_codes_that_know_nothing_is_uniform_for_every_size_of_class(by: str):
    """With ties broken at random: fits to a class of twenty patches take few values."""
    broken, p = [], []
    for seed in range(30):
        labels, image, rng = street(100 + seed)
        fits = fits_of(blind_codes(labels, image, 300, by, rng), labels, image, 39, rng)
        broken.append(each_p(lambda o, n, rng=rng: tie_broken_p(o, n, rng), *fits))
        p.append(each_p(rank_p, *fits))
    broken, p = np.stack(broken), np.stack(p)
    for s, selector in enumerate(SELECTORS):
        for c in range(N_CLASSES):
            mine = broken[:, s, c]
            assert uniformity_p(mine) >= 0.01, (selector, c, np.sort(mine))
            assert 0.2 <= mine.mean() <= 0.8 and mine.min() < 0.5 < mine.max(), (selector, c)
        assert np.mean(p[:, s] <= 0.05) <= 0.08, selector
