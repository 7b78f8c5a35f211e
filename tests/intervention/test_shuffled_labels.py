"""Shuffled labels of patches: what they keep, and that codes which know nothing do not beat them."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from saev.intervention.choose.code_table import CodeTable
from saev.intervention.choose.selectors import score_latents
from saev.intervention.judge.tally import Groups
from saev.intervention.readout import STRATUM, shuffled
from saev.stats.tests import rank_p, uniformity_p
from tests.fakes.street import MEAN_SIZE, N_CLASSES, blind_codes, street_labels

STREET = Groups(((0, N_CLASSES),))
SELECTORS = ("f1", "auroc", "average_precision")
"""Those that a fit is judged by; greedy and logistic choices are judged by F1."""


def street(seed: int, n_images: int = 30) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    rng = np.random.default_rng(seed)
    return *street_labels(rng, n_images), rng


def reshuffled(labels: np.ndarray, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return shuffled(labels[:, None], image, STREET, "patch", rng)[:, 0]


def best_fits(table: CodeTable) -> np.ndarray:
    """Selectors × classes."""
    return np.stack([score_latents(by, table, N_CLASSES).max(0) for by in SELECTORS])


def p_of_choice(
    codes: csr_matrix, labels: np.ndarray, image: np.ndarray, n_draws: int, rng
) -> np.ndarray:
    """Selectors × classes."""
    table = CodeTable(codes, labels)
    null = np.stack(
        [best_fits(table.relabelled(reshuffled(labels, image, rng))) for _ in range(n_draws)], -1
    )
    observed = best_fits(table)
    return np.array(
        [
            [rank_p(o, n) for o, n in zip(*row, strict=True)]
            for row in zip(observed, null, strict=True)
        ]
    )


def test_regions_stay_regions_and_exchange_names_with_their_like():
    labels, image, rng = street(0)
    new = reshuffled(labels, image, rng)
    assert (new != labels).mean() > 0.3
    region, size = np.unique(image * N_CLASSES + labels, return_inverse=True, return_counts=True)[
        1:
    ]
    first = np.unique(region, return_index=True)[1]
    before, after = labels[first], new[first]
    np.testing.assert_array_equal(after[region], new)
    by_size = size.argsort(kind="stable")
    for start in range(0, len(by_size), STRATUM):
        rows = by_size[start : start + STRATUM]
        assert sorted(before[rows]) == sorted(after[rows])


def test_every_class_keeps_about_as_many_patches():
    labels, image, rng = street(1)
    n_before = np.bincount(labels, minlength=N_CLASSES)
    n_after = np.mean(
        [np.bincount(reshuffled(labels, image, rng), minlength=N_CLASSES) for _ in range(50)], 0
    )
    np.testing.assert_allclose(n_after[MEAN_SIZE >= 4], n_before[MEAN_SIZE >= 4], rtol=0.02)
    np.testing.assert_allclose(n_after, n_before, rtol=0.1)


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
    """Permuting names over all classes gives p = 1/40 to the three common ones, 1 to the rare."""
    labels, image, rng = street(2, n_images=12)
    codes = blind_codes(labels, image, 120, "patch", rng)
    f1, auroc, _ = p_of_choice(codes, labels, image, 39, rng)
    for p in (f1, auroc):
        assert (p[:3] > 1 / 40).all() and p[:3].mean() > 0.1 and p[3:].mean() < 0.9


def test_a_latent_that_knows_its_class_is_found_down_to_classes_of_forty_patches():
    labels, image, rng = street(3, n_images=16)
    codes = blind_codes(labels, image, 60, "patch", rng).toarray()
    for c in range(N_CLASSES):
        codes[:, c] = rng.random(len(labels)) < np.where(labels == c, 0.7, 0.02)
    p = p_of_choice(csr_matrix(codes), labels, image, 19, rng)
    assert (p[:, np.bincount(labels) >= 40] == 1 / 20).all()


@pytest.mark.slow
@pytest.mark.parametrize("by", ["patch", "region"])
def test_p_of_codes_that_know_nothing_is_uniform_for_every_size_of_class(by: str):
    worlds = []
    for seed in range(12):
        labels, image, rng = street(100 + seed)
        codes = blind_codes(labels, image, 300, by, rng)
        worlds.append(p_of_choice(codes, labels, image, 39, rng))
    p = np.stack(worlds)
    for s, selector in enumerate(SELECTORS):
        for c in range(N_CLASSES):
            mine = p[:, s, c]
            assert uniformity_p(mine) >= 0.01, (selector, c, np.sort(mine))
            assert 0.2 <= mine.mean() <= 0.8 and mine.min() < 0.5 < mine.max(), (selector, c)
        assert np.mean(p[:, s] <= 0.05) <= 0.08
