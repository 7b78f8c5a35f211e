"""Absorption by a plain loop, its null near 1, draws of images, and groups from a file."""

import numpy as np
import pytest
from sklearn.feature_selection import f_classif
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from saev.metrics.visaebench.absorption import absorption, absorption_null
from saev.metrics.visaebench.absorption_pairs import AbsorptionLimits
from saev.metrics.visaebench.sibling_groups import sibling_groups
from saev.stats.bootstrap import bootstrap_interval

GROUPS = {"own": [0, 1, 2], "shared": [3, 4, 5, 6], "small": [0, 1], "absent": [7, 8, 9]}


def planted(n_each: int = 14, s: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Classes 0 to 2 have ten strong latents each, 3 to 6 share theirs."""
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(7), n_each)
    codes = 0.5 * rng.random((len(label), s))
    for at, class_index in enumerate(label):
        first = 10 * class_index if class_index < 3 else 30
        codes[at, first : first + 10] += 1 + rng.random(10)
    return codes.astype(np.float32), label


def slow_pair(
    codes: np.ndarray, label: np.ndarray, classes: list[int], own: int
) -> tuple[float, float, float]:
    rows = np.isin(label, classes)
    codes, label = codes[rows], label[rows] == own
    tops = [set(np.argsort(-one.mean(0))[:10].tolist()) for one in (codes, codes[label])]
    scores = []
    ranked = np.argsort(-f_classif(codes, label)[0])
    for k in (1, 4):
        probe = LogisticRegression(max_iter=500).fit(codes[:, ranked[:k]], label)
        called = probe.predict(codes[:, ranked[:k]])
        scores.append(float(f1_score(label, called, zero_division=0.0)))  # pyright: ignore[reportArgumentType]
    return len(tops[0] & tops[1]) / len(tops[0] | tops[1]), scores[0], scores[1]


def test_is_the_loop() -> None:
    codes, label = planted()
    found = absorption(codes, label, GROUPS)
    pairs = [(one.group, one.class_index) for one in found.siblings]
    assert pairs == [(name, own) for name in ("own", "shared") for own in GROUPS[name]]
    absorbed = []
    for one in found.siblings:
        overlap, primary, expanded = slow_pair(codes, label, GROUPS[one.group], one.class_index)
        assert (one.overlap, one.f1_primary, one.f1_expanded) == pytest.approx(
            (overlap, primary, expanded)
        )
        absorbed.append(overlap > 0.5 or expanded - primary > 0.1)
    assert found.value == pytest.approx(np.mean(absorbed))
    assert all(one.absorbed for one in found.siblings[3:]), "they share their latents"
    assert not any(one.absorbed for one in found.siblings[:3])


def test_order_scale_and_range() -> None:
    codes, label = planted()
    value = absorption(codes, label, GROUPS).value
    order = np.random.default_rng(0).permutation(len(label))
    assert absorption(codes[order], label[order], GROUPS).value == value
    latents = np.random.default_rng(0).permutation(codes.shape[1])
    assert absorption(codes[:, latents], label, GROUPS).value == value
    assert 0 <= value <= 1
    assert absorption(codes, label, GROUPS, limits=AbsorptionLimits(overlap=1, gap=1)).value == 0


def test_null_is_near_one() -> None:
    """A dictionary that knows nothing of the classes is absorbed: 1 is where nothing is known."""
    codes, label = planted(n_each=40)
    own = {"own": GROUPS["own"]}
    codes[:, :30] *= np.tile(np.geomspace(1, 30, 10), 3)
    rng = np.random.default_rng(0)
    null = [absorption_null(codes, label, own, rng).value for _ in range(4)]
    assert np.mean(null) > 0.9 > absorption(codes, label, own).value
    once, again = (absorption_null(codes, label, own, np.random.default_rng(1)) for _ in range(2))
    assert once.value == again.value
    counts = [np.bincount(one.label_n) for one in (once, absorption(codes, label, own))]
    assert counts[0].tolist() == counts[1].tolist()
    both = {**own, "wide": [2, 3]}
    assert (absorption_null(codes, label, own, rng).label_n[label > 2] == label[label > 2]).all()
    mixed = absorption_null(codes, label, both, rng).label_n
    assert set(mixed[label == 0]) == {0, 1, 2, 3}, "classes of groups that share one are mixed"


def test_too_few_images_are_left_out() -> None:
    codes, label = planted(n_each=3)
    assert {one.group for one in absorption(codes, label, GROUPS).siblings} == {"shared"}
    assert np.isnan(absorption(codes[:6], label[:6], GROUPS).value)
    codes, label = planted()
    rare = np.flatnonzero(label == 1)[:-2]
    kept = np.setdiff1d(np.arange(len(label)), rare)
    found = absorption(codes[kept], label[kept], {"own": [0, 1, 2]})
    assert [one.class_index for one in found.siblings] == [0, 2]
    with pytest.raises(ValueError, match="one each"):
        absorption(codes, label[1:], GROUPS)


def test_draws_are_values_of_repeated_images_where_probes_agree() -> None:
    codes, label = planted()
    found = absorption(codes, label, GROUPS)
    assert found.resampled(np.ones((1, len(label))))[0] == pytest.approx(found.value)
    weight = np.random.default_rng(0).multinomial(98, np.full(98, 1 / 98), 3).astype(float)
    by_overlap = AbsorptionLimits(gap=1.0)
    drawn = absorption(codes, label, GROUPS, limits=by_overlap).resampled(weight)
    for row, value in zip(weight, drawn, strict=True):
        rows = np.repeat(np.arange(98), row.astype(int))
        again = absorption(codes[rows], label[rows], GROUPS, limits=by_overlap)
        assert value == pytest.approx(again.value)
    low, high, _ = bootstrap_interval(lambda w: found.resampled(w[:200]), 98)
    assert low <= found.value <= high
    assert np.isnan(found.resampled(np.zeros((1, 98))))


def test_groups_from_lines() -> None:
    lines = ["# class\tparent\n", "cat\tfelid\n", "\n", "lion\tfelid", "cat\tpet\r\n", "dog\tpet\n"]
    names = ["dog", "cat", "lion"]
    assert sibling_groups(lines, names) == {"felid": [1, 2], "pet": [0, 1]}
    with pytest.raises(ValueError, match="Line 1 must be class<TAB>parent"):
        sibling_groups(["cat felid"], names)
    with pytest.raises(ValueError, match="'cow' is none of the 3 classes"):
        sibling_groups(["cat\tpet", "cow\tbovid"], names)
