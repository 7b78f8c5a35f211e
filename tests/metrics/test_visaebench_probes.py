"""M3 and M4 against plain scikit-learn, their nulls, and draws of test images."""

import numpy as np
import pytest
from sklearn.feature_selection import f_classif
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from saev.metrics.visaebench.probe_ratio import probe_ratio, probe_ratio_null
from saev.metrics.visaebench.seeded import draw_latents, split_images
from saev.metrics.visaebench.sparse_probing_curve import (
    KS,
    sparse_probing_curve,
    sparse_probing_null,
)
from saev.stats.bootstrap import bootstrap_interval, image_weights


def planted(n: int = 240, d: int = 6, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Rows around the mean of their class, and the classes."""
    rng = np.random.default_rng(0)
    label = rng.permutation(np.arange(n) % classes)
    return (rng.normal(size=(classes, d)) * 2)[label] + rng.normal(size=(n, d)), label


def planted_codes(n: int = 240, s: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Four latents that fire for a class, the rest at random."""
    rng = np.random.default_rng(1)
    label = rng.permutation(np.arange(n) % 4)
    codes = rng.random((n, s)) * (rng.random((n, s)) < 0.2)
    for latent in range(4):
        codes[:, 10 * latent] += (label == latent) * rng.random(n)
    codes[:, -5:] = 0
    return codes.astype(np.float32), label


def slow_curve(codes: np.ndarray, label: np.ndarray, ks: list[int], ranked_on_all: bool) -> float:
    split = train_test_split(codes, label, test_size=0.2, stratify=label, random_state=42)
    train, test, label_train, label_test = (np.asarray(part) for part in split)
    ranked_rows = (codes, label) if ranked_on_all else (train, label_train)
    varies = np.flatnonzero(ranked_rows[0].std(0) > 0)
    statistic, _ = f_classif(ranked_rows[0][:, varies], ranked_rows[1])
    ranked = varies[np.argsort(-statistic)]
    area, before = 0.0, 0.0
    for at, k in enumerate(ks):
        probe = LogisticRegression(max_iter=500).fit(train[:, ranked[:k]], label_train)
        accuracy = float(np.mean(probe.predict(test[:, ranked[:k]]) == label_test))
        area += (k - ks[at - 1]) * (accuracy + before) / 2 if at else 0.0
        before = accuracy
    return area / (ks[-1] - ks[0])


@pytest.mark.parametrize("ranked_on", ["all", "train"])
def test_curve_is_the_plain_one(ranked_on: str) -> None:
    codes, label = planted_codes()
    found = sparse_probing_curve(codes, label, ks=[20, 1, 5], ranked_on=ranked_on)  # pyright: ignore[reportArgumentType]
    expected = slow_curve(codes, label, [1, 5, 20], ranked_on == "all")
    assert found.value == pytest.approx(expected)
    assert found.ks == (1, 5, 20) and found.converged_k.all()
    assert found.accuracy_k[1] > 0.8 > found.accuracy_k[0]


def test_order_and_names_of_latents_and_classes_change_nothing() -> None:
    codes, label = planted_codes(s=60)
    found = sparse_probing_curve(codes, label, ks=[1, 5])
    turned = sparse_probing_curve(codes[:, ::-1].copy(), label, ks=[1, 5])
    np.testing.assert_allclose(turned.accuracy_k, found.accuracy_k)
    assert 0 <= found.value <= 1


def test_permuted_labels_score_above_chance_where_test_labels_rank() -> None:
    """The leak of the benchmark's ranking, of 300 latents and ten."""
    codes, label = planted_codes()
    seen, unseen = [], []
    for seed in range(6):
        draw = {"ks": [10], "rng": np.random.default_rng(seed)}
        seen.append(sparse_probing_null(codes, label, **draw).value)
        draw["rng"] = np.random.default_rng(seed)
        unseen.append(sparse_probing_null(codes, label, ranked_on="train", **draw).value)
    assert np.mean(unseen) == pytest.approx(0.25, abs=0.08)
    assert np.mean(seen) > np.mean(unseen) + 0.08
    again = sparse_probing_null(codes, label, np.random.default_rng(5), ks=[10])
    assert again.value == seen[-1]


def test_which_k_are_left() -> None:
    codes, label = planted_codes(s=45)
    assert sparse_probing_curve(codes, label).ks == (1, 5, 10, 20)
    assert max(KS) == 100
    one = sparse_probing_curve(codes, label, ks=[5])
    assert one.value == one.accuracy_k[0]
    assert one.most_frequent == pytest.approx(0.25)
    for wrong in ([], [50], [0, 5]):
        with pytest.raises(ValueError, match="between 1 and 45"):
            sparse_probing_curve(codes, label, ks=wrong)
    with pytest.raises(ValueError, match="240 images and 239 labels: one each"):
        sparse_probing_curve(codes, label[1:], ranked_on="train")
    with pytest.raises(ValueError, match="240 images and 239 labels: one each"):
        probe_ratio(codes, codes, label[1:])


def test_ratio_is_the_plain_one() -> None:
    x, label = planted()
    x_hat = x + np.random.default_rng(2).normal(size=x.shape) * 2
    rows = train_test_split(np.arange(240), test_size=0.2, stratify=label, random_state=42)
    train, test = (np.asarray(part) for part in rows)
    probe = LogisticRegression(max_iter=1000).fit(x[train], label[train])
    expected = probe.score(x_hat[test], label[test]) / probe.score(x[test], label[test])
    found = probe_ratio(x, x_hat, label)
    assert found.value == pytest.approx(expected)
    assert found.test_m.tolist() == test.tolist()
    assert probe_ratio(x, x, label).value == 1.0
    assert found.converged and not probe_ratio(x, x_hat, label, max_iter=1).converged


def test_nulls_of_the_ratio() -> None:
    x, label = planted(n=1000)
    null = probe_ratio_null(x, x, label, np.random.default_rng(0))
    on_x, on_others = null.accuracies
    assert on_x > 0.9 and on_others == pytest.approx(0.25, abs=0.08)
    assert null.value == pytest.approx(on_others / on_x)
    permuted = np.random.default_rng(0).permutation(label)
    assert probe_ratio(x, x, permuted).value == 1.0, "permuted labels are no null"
    again = probe_ratio_null(x, x, label, np.random.default_rng(0))
    assert again.value == null.value


def test_ratio_keeps_within_its_range() -> None:
    found = probe_ratio(*planted()[:1], *planted())
    better = found._replace(right_m2=np.array([[True, True], [False, True], [False, True]]))
    assert better.value == 2.0
    assert np.isnan(better._replace(right_m2=np.array([[False, True]])).value)


def test_draws_are_shares_of_repeated_test_images() -> None:
    codes, label = planted_codes(s=40)
    x, class_x = planted()
    x_hat = x + np.random.default_rng(2).normal(size=x.shape) * 2
    curve = sparse_probing_curve(codes, label, ks=[1, 5, 10])
    ratio = probe_ratio(x, x_hat, class_x)
    weight = image_weights(48, 3, np.random.default_rng(0))
    for found, right in ((curve, curve.right_mk), (ratio, ratio.right_m2)):
        assert found.resampled(np.ones((1, 48)))[0] == pytest.approx(found.value)
        for row, drawn in zip(weight, found.resampled(weight), strict=True):
            repeated = np.repeat(right, row.astype(int), axis=0)
            name = "right_mk" if found is curve else "right_m2"
            assert drawn == pytest.approx(found._replace(**{name: repeated}).value)
        low, high, _ = bootstrap_interval(found.resampled, 48)
        assert low <= found.value <= high
    assert np.isnan(curve.resampled(np.zeros((1, 48))))


def test_split_within_classes_unless_a_number_is_missing() -> None:
    label = np.repeat(np.arange(5), 20)
    _, test = split_images(label)
    assert np.bincount(label[test]).tolist() == [4] * 5
    gapped = np.where(label == 4, 7, label)
    _, test = split_images(gapped)
    assert np.bincount(gapped[test])[[0, 1, 2, 3, 7]].tolist() != [4] * 5
    with pytest.raises(ValueError, match="test_size"):
        split_images(np.repeat(np.arange(10), 3))


def test_drawn_latents_ascend_and_repeat() -> None:
    candidates = np.arange(0, 100, 3)
    drawn = draw_latents(candidates, 7)
    assert len(drawn) == 7 and (np.diff(drawn) > 0).all() and np.isin(drawn, candidates).all()
    assert np.array_equal(drawn, draw_latents(candidates, 7))
    assert not np.array_equal(drawn, draw_latents(candidates, 7, seed=1))
    assert np.array_equal(draw_latents(candidates, 100), candidates)
