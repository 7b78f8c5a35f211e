"""Entropy over labels and places in a tree, by hand."""

import math

import numpy as np
import pytest

from saev.metrics.class_mass import Tree, back_off, hierarchy, label_entropy

TREE = Tree(
    {
        "pug": "dog", "husky": "dog", "tabby": "cat", "dog": "animal", "cat": "animal",
        "animal": "thing", "chair": "thing",
    }
)  # fmt: skip


def test_entropy_by_hand() -> None:
    entropy = label_entropy(np.array([[4.0, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, 0]]))
    assert entropy[:3].tolist() == pytest.approx([0, math.log(2), math.log(3)])
    assert math.isnan(entropy[3])


def test_place_in_the_tree() -> None:
    dogs = hierarchy(["pug", "husky"], TREE)
    assert (dogs.lch, dogs.lch_height, dogs.coverage) == ("dog", 1, 1.0)
    assert dogs.lca_depth == 3  # thing, animal, dog
    mixed = hierarchy(["pug", "pug", "tabby"], TREE)
    assert (mixed.lch, mixed.lch_height) == ("animal", 2)
    assert mixed.coverage == pytest.approx(2 / 3)
    assert mixed.lca_depth == pytest.approx((4 + 2 + 2) / 3)


def test_back_off_to_a_kind_of_dog() -> None:
    assert back_off({"pug": 5.0, "husky": 4.5, "chair": 0.5}, TREE) == ("dog", 0.95)
    assert back_off({"pug": 1.0, "chair": 1.0}, TREE) is None, "the root says nothing"


def test_a_circle_is_refused() -> None:
    with pytest.raises(ValueError, match="circle"):
        Tree({"a": "b", "b": "a"})
