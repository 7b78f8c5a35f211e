"""Counts of what an edit did to predictions, by hand on a few units."""

import numpy as np
import pytest
import torch

from saev.intervention.judge.tally import (
    Clean,
    Groups,
    Predictions,
    Question,
    Scorer,
    Tally,
    other_change,
    predict,
)

GROUPS = Groups(((0, 3),))


def one_hot(classes: list[list[int]], confidence: float = 0.8) -> Predictions:
    """Predictions with this class per unit, at a probability, the rest shared by the others."""
    index = torch.tensor(classes)
    probability = torch.full((*index.shape, 3), (1 - confidence) / 2)
    probability.scatter_(-1, index[..., None], confidence)
    return Predictions(index[..., None], probability)


def scored(base=None):
    """Two images of four patches: clean 0 0 1 2 and 0 1 1 1; edited 1 0 1 0 and 1 1 1 2."""
    clean = one_hot([[0, 0, 1, 2], [0, 1, 1, 1]])
    labels = torch.tensor([[0, 0, 1, 2], [0, 0, 1, -1]])[..., None]
    scorer = Scorer(clean, clean.classes if base is None else base, labels, GROUPS)
    edited = one_hot([[1, 0, 1, 0], [1, 1, 1, 2]], 0.6)
    untouched = Clean(Tally(*scorer.score(clean)), *scorer.units())
    return Tally(*scorer.score(edited)), untouched


def test_counts():
    tally, clean = scored()
    np.testing.assert_array_equal(clean.n_base, [[2, 1, 1], [1, 3, 0]])
    np.testing.assert_array_equal(clean.n_labelled, [[2, 1, 1], [2, 1, 0]])
    np.testing.assert_array_equal(clean.n_group, [[4] * 3, [4] * 3])
    np.testing.assert_array_equal(clean.n_right, clean.n_base)
    np.testing.assert_array_equal(tally.changed, [[1, 0, 1], [1, 1, 0]])
    np.testing.assert_array_equal(tally.left, tally.changed)
    np.testing.assert_array_equal(tally.repaired, 0)
    np.testing.assert_array_equal(tally.arrived, [[1, 1, 0], [0, 1, 1]])
    np.testing.assert_array_equal(tally.correct, [[1, 1, 0], [0, 1, 0]])
    np.testing.assert_allclose(tally.probability[0], [0.6 + 0.2, 0.6, 0.2], rtol=1e-6)
    np.testing.assert_array_equal(clean.tally.changed, 0)


def question(metric: str, direction: str = "decrease", label: int = 0) -> Question:
    return Question(label, metric, direction, GROUPS, tuple(GROUPS.peers(label)))


@pytest.mark.parametrize(
    "metric, direction, expected",
    [
        ("target_change", "decrease", 2 / 3),
        ("selective_change", "decrease", 2 / 3 - (1 / 4 + 1) / 2),
        ("probability", "decrease", (3 * 0.8 - (0.8 + 0.2)) / 3),
        ("accuracy", "decrease", (3 - 1) / 4),
        ("target_change", "increase", 1 / 5),
        ("selective_change", "increase", 1 / 5 - (2 / 4 + 1 / 7) / 2),
        ("probability", "increase", (4 * 0.2 + 0.6 - 5 * 0.1) / 5),
    ],
)
def test_effects_by_hand(metric, direction, expected):
    tally, clean = scored()
    assert question(metric, direction).effect(tally, clean) == pytest.approx(expected)


def test_the_clean_model_has_no_effect():
    _, clean = scored()
    for metric in ("target_change", "selective_change", "probability", "accuracy"):
        assert question(metric).effect(clean.tally, clean) == 0.0


def test_other_change_is_over_units_of_other_classes():
    tally, clean = scored()
    assert other_change(tally, clean, 0, GROUPS) == pytest.approx(2 / 5)
    assert other_change(tally, clean, 0, GROUPS, images=[0]) == pytest.approx(1 / 2)


def test_resampling_adds_images_up():
    tally, clean = scored()
    ask = question("target_change")
    weights = np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]])
    np.testing.assert_allclose(ask.resampled(tally, clean, weights), [2 / 3, 1 / 2, 1.0])
    np.testing.assert_allclose(ask.per_image(tally, clean), [1 / 2, 1.0])
    assert np.isnan(question("target_change", label=2).per_image(tally, clean)[1])


@pytest.mark.parametrize("metric", ["target_change", "selective_change", "probability", "accuracy"])
@pytest.mark.parametrize("direction", ["decrease", "increase"])
def test_a_stack_is_its_members(metric, direction):
    tally, clean = scored()
    ask = question(metric, direction)
    images = np.arange(2)
    stack = Tally.stack([tally, clean.tally, tally], images)
    one, other = ask.effect(tally, clean), ask.effect(clean.tally, clean)
    np.testing.assert_allclose(ask.effects(stack, clean), [one, other, one])
    np.testing.assert_array_equal(ask.per_image(stack, clean)[0], ask.per_image(tally, clean))
    np.testing.assert_allclose(ask.resampled(tally, clean, np.ones((1, 2))), one)


def test_labels_can_be_the_base():
    base = torch.tensor([[0, 0, 1, 2], [0, 0, 1, -1]])[..., None]
    tally, clean = scored(base)
    np.testing.assert_array_equal(clean.n_base, [[2, 1, 1], [2, 1, 0]])
    np.testing.assert_array_equal(tally.changed, [[1, 0, 1], [1, 0, 0]])


def test_groups_compete_on_their_own():
    groups = Groups(((0, 2), (2, 5)), frozenset({2}))
    logits = torch.tensor([[[0.0, 1.0, 5.0, 2.0, 3.0]]])
    found = predict(logits, groups)
    assert found.classes.tolist() == [[[1, 2]]]
    assert found.probabilities[0, 0, :2].sum() == pytest.approx(1.0)
    assert found.probabilities[0, 0, 2:].sum() == pytest.approx(1.0)
    assert groups.of(1) == 0 and groups.of(4) == 1
    assert groups.peers(3) == [4] and groups.peers(0) == [1]


def test_rows_of_a_batch_score_as_the_batch():
    clean = one_hot([[0, 0, 1, 2], [0, 1, 1, 1]])
    scorer = Scorer(clean, clean.classes, clean.classes, GROUPS)
    edited = one_hot([[1, 0, 1, 0], [1, 1, 1, 2]], 0.6)
    whole = scorer.score(edited)
    second = scorer.score(Predictions(*(part[[1]] for part in edited)), torch.tensor([1]))
    for all_rows, one_row in zip(whole, second, strict=True):
        np.testing.assert_array_equal(all_rows[[1]], one_row)


def test_a_repaired_prediction_is_no_change_of_the_target():
    """Four images of class 0, two of them called 1; an edit that only repairs these."""
    labels = torch.zeros(4, 1, 1, dtype=torch.long)
    before, after = one_hot([[0], [0], [1], [1]]), one_hot([[0]] * 4)
    elsewhere = one_hot([[0], [1], [2], [0]])
    scorer = Scorer(before, labels, labels, GROUPS)
    clean = Clean(Tally(*scorer.score(before)), *scorer.units())
    ask = question("target_change")
    repaired, mixed = (Tally(*scorer.score(found)) for found in (after, elsewhere))
    assert clean.n_base[:, 0].sum() == 4 and clean.n_right[:, 0].sum() == 2
    assert ask.effect(repaired, clean) == 0
    assert question("accuracy").effect(repaired, clean) == -0.5
    assert repaired.repaired[:, 0].sum() == 2 and repaired.left.sum() == 0
    # one of the two right ones leaves, one error becomes another, one is repaired
    assert ask.effect(mixed, clean) == 0.5
    counts = [float(values[:, 0].sum()) for values in (mixed.changed, mixed.left, mixed.repaired)]
    assert counts == [3, 1, 1]
