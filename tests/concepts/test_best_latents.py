"""A planted concept is found on images that did not choose it; noise is not."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.metrics import f1_score, roc_auc_score

from saev.codes.store import CodeStore
from saev.concepts.best_latents import Concepts, score_concepts
from tests.fakes.codes import build

N, P, S = 120, 4, 20
SPLITS = ["discovery"] * 60 + ["calibration"] * 20 + ["test"] * 40


@pytest.fixture
def planted(tmp_path: Path) -> tuple[CodeStore, torch.Tensor, np.ndarray]:
    """Latent 3 tells concept 0 by its largest code, latent 5 tells concept 1 by its sum."""
    generator = torch.Generator().manual_seed(0)
    rng = np.random.default_rng(0)
    z = (torch.randn(N, P, S, generator=generator) - 0.8).relu()
    labels = rng.random((N, 3)) < 0.35
    z[..., 3] = 0
    z[torch.from_numpy(labels[:, 0]), 1, 3] = 2
    z[..., 5] = 1 * torch.from_numpy(labels[:, 1])[:, None].float()
    z[:, 0, 5] = 1
    store = CodeStore.create(
        tmp_path / "codes", [str(i) for i in range(N)], n_latents=S, n_tokens=P, identity={},
        images_per_part=50,
    )  # fmt: skip
    for part in store.missing():
        span = store.images_of(part)
        store.write(part, build(z[span.start : span.stop]))
    return store, z, labels


def on_images(labels: np.ndarray) -> Concepts:
    return Concepts(
        "toy", "class", ["a", "b", "noise"], np.arange(N), SPLITS,
        sparse.csr_matrix(labels.astype(float)),
    )  # fmt: skip


def test_planted_concepts_are_found_and_noise_is_not(planted) -> None:
    store, z, labels = planted
    scores = score_concepts(store, on_images(labels), n_permutations=199)
    assert scores.best()[:2].tolist() == [3, 5]
    assert scores.pool[5, 1] == 1, "its largest code says nothing, its sum all"
    assert scores.q[3, 0] <= 0.02 and scores.q[5, 1] <= 0.02
    assert scores.q[scores.best()[2], 2] > 0.05
    assert scores.shuffled_discoveries <= 0.1
    test = np.array([split == "test" for split in SPLITS])
    x, y = z.amax(1)[test].numpy(), labels[test]
    for latent in range(S):
        if scores.pool[latent, 0] == 0:
            expected = roc_auc_score(y[:, 0], x[:, latent])
            assert scores.by_split["test"].auroc[latent, 0] == pytest.approx(expected)
    predicted = x[:, 3] >= scores.threshold[3, 0]
    assert scores.test.f1[3, 0] == pytest.approx(f1_score(y[:, 0], predicted))


def test_ranges_of_latents_do_not_change_the_scores(planted, monkeypatch) -> None:
    store, _, labels = planted
    whole = score_concepts(store, on_images(labels), n_permutations=49)
    chunks = [(0, 4), (4, 11), (11, S)]
    monkeypatch.setattr(store, "chunks", lambda: iter(chunks))
    parts = score_concepts(store, on_images(labels), n_permutations=49)
    np.testing.assert_array_equal(whole.p, parts.p)
    np.testing.assert_array_equal(whole.q, parts.q)
    np.testing.assert_array_equal(whole.test.f1, parts.test.f1)
    np.testing.assert_array_equal(whole.by_split["test"].ap, parts.by_split["test"].ap)


def test_masks_are_scored_on_usable_patches_of_their_images(planted) -> None:
    store, z, _ = planted
    images = np.arange(10, 110)
    rng = np.random.default_rng(1)
    mask = rng.random((100, P)) < 0.4
    usable = rng.random((100, P)) < 0.8
    concepts = Concepts(
        "toy", "mask", ["there"], images, SPLITS[10:110],
        sparse.csr_matrix(mask.reshape(-1, 1).astype(float)), usable.ravel(),
    )  # fmt: skip
    scores = score_concepts(store, concepts, n_permutations=19)
    test = np.array([split == "test" for split in SPLITS[10:110]])
    rows = usable & test[:, None]
    x = z[torch.from_numpy(images)].numpy()
    for latent in (0, 7):
        expected = roc_auc_score(mask[rows], x[..., latent][rows])
        assert scores.by_split["test"].auroc[latent, 0] == pytest.approx(expected)
    assert scores.n_rows["test"] == rows.sum()


def test_rare_concepts_take_their_threshold_from_more_images(planted) -> None:
    store, z, labels = planted
    scores = score_concepts(store, on_images(labels), n_permutations=19)
    seen = np.array([split != "test" for split in SPLITS])
    x, y = z.amax(1)[seen].numpy()[:, 8], labels[seen][:, 2]
    best = max(f1_score(y, x >= t) for t in np.unique(x[x > 0]))
    if scores.pool[8, 2] == 0:
        assert f1_score(y, x >= scores.threshold[8, 2]) == pytest.approx(best)
