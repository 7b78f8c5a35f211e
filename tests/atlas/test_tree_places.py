"""Where strongest images stand in a tree."""

from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest

from datamodules.images import ImageItem, ImageSource
from saev.atlas.names.tree_places import add_tree_places
from saev.codes.images import ImageList
from saev.metrics.class_mass import Tree

TREE = Tree({"pug": "dog", "husky": "dog", "tabby": "cat", "dog": "animal", "cat": "animal"})


def images_of(labels: list[int | None]) -> ImageList:
    source = Mock(spec=ImageSource, class_names=["pug", "husky", "tabby", "stone"])
    items = [ImageItem(f"a/{i}", "train", one, None) for i, one in enumerate(labels)]
    return ImageList({"a": source}, [("a", item) for item in items])


def test_place_of_the_labels_that_the_tree_knows() -> None:
    images = images_of([0, 1, 2, 3, None])
    rows = [(0, "max", 0), (0, "max", 1), (0, "max", 4), (1, "max", 0), (1, "max", 2),
            (2, "max", 3), (2, "sum", 0), (2, "sum", 1)]  # fmt: skip
    exemplars = pd.DataFrame(rows, columns=["latent", "role", "image"])
    table = pd.DataFrame({"latent": range(4)})
    add_tree_places(table, exemplars, images, TREE)
    assert table["lch"].tolist()[:2] == ["dog", "animal"]
    assert table["lch"][2:].isna().all()
    assert table["lca_depth"].tolist()[:2] == [2, 1]
    assert table["lch_height"].tolist()[:2] == [1, 2]
    assert table["coverage"].tolist()[:2] == pytest.approx([1, 2 / 3])
    assert np.isnan(table["lca_depth"][2:]).all(), (
        "a stone is not in the tree, and sums do not count"
    )
