"""Laws of the held-out share and of the image limit."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.images.selection import SPLITS, decide_splits, draw, limit_images

ids = st.lists(st.text("abcdef0123456789/", min_size=1, max_size=8), unique=True, max_size=60)
seeds = st.integers(0, 5)
fractions = st.sampled_from([0.0, 0.1, 0.3, 0.9])


@given(ids, seeds)
def test_draws_are_in_range_and_repeat(names, seed):
    draws = [draw(seed, "split", name) for name in names]
    assert all(0 <= value < 1 for value in draws)
    assert draws == [draw(seed, "split", name) for name in names]


def test_draws_are_uniform_and_differ_by_seed_and_purpose():
    names = [str(number) for number in range(4000)]
    draws = [draw(0, "split", name) for name in names]
    deciles = Counter(int(10 * value) for value in draws)
    assert all(300 < deciles[decile] < 500 for decile in range(10))
    assert draws[0] != draw(1, "split", "0")
    assert draws[0] != draw(0, "limit", "0")


@given(ids, ids, seeds, fractions)
def test_added_images_leave_the_others_where_they_are(names, added, seed, fraction):
    # A pair with draws on both sides of every fraction switches the small-set rule off.
    anchors = [_with_draw(seed, 0.0, 0.02), _with_draw(seed, 0.95, 1.0)]
    names = anchors + [name for name in names if name not in anchors]
    more = [name for name in added if name not in names]
    before = dict(
        zip(names, decide_splits(names, [None] * len(names), fraction, seed), strict=True)
    )
    every = more + names
    after = dict(zip(every, decide_splits(every, [None] * len(every), fraction, seed), strict=True))
    assert all(after[name] == split for name, split in before.items())


def _with_draw(seed: int, low: float, high: float) -> str:
    candidates = (f"anchor{number}" for number in range(10_000))
    return next(name for name in candidates if low <= draw(seed, "split", name) < high)


@given(ids, seeds, st.sampled_from([0.1, 0.5, 0.9]))
def test_both_sides_exist_from_two_images_on(names, seed, fraction):
    splits = decide_splits(names, [None] * len(names), fraction, seed)
    assert len(names) < 2 or {"train", "val"} == set(splits)


@given(ids, seeds)
def test_fraction_zero_holds_nothing_out(names, seed):
    assert set(decide_splits(names, [None] * len(names), 0.0, seed)) <= {"train"}


@given(st.lists(st.sampled_from(SPLITS), max_size=30), seeds)
def test_stated_splits_stay(stated, seed):
    names = [str(number) for number in range(len(stated))]
    assert decide_splits(names, stated, 0.5, seed) == stated


@given(
    st.lists(st.sampled_from(SPLITS), min_size=1, max_size=80),
    st.integers(1, 90),
    st.integers(0, 3),
)
def test_limit_keeps_proportions_both_sides_and_nests(splits, n_images, seed):
    names = [str(number) for number in range(len(splits))]
    kept = limit_images(names, splits, n_images, seed)
    assert kept == sorted(set(kept))
    assert len(kept) == min(n_images, len(splits))
    assert set(kept) <= set(limit_images(names, splits, n_images + 1, seed))
    total, chosen = Counter(splits), Counter(splits[number] for number in kept)
    for split in SPLITS:
        share = len(kept) * total[split] / len(splits)
        assert abs(chosen[split] - share) <= 2
    n_train = total["train"]
    if n_images >= 2 and 0 < n_train < len(splits):
        assert 0 < chosen["train"] < len(kept)


@pytest.mark.parametrize("n_images", [1, 2, 3, 7])
def test_limit_depends_on_the_seed(n_images):
    names = [str(number) for number in range(100)]
    choices = {
        tuple(limit_images(names, ["train"] * 90 + ["val"] * 10, n_images, seed))
        for seed in range(5)
    }
    assert len(choices) > 1
