"""Tree places: where the classes of each latent's strongest images lie in a tree of classes."""

from typing import TYPE_CHECKING

import numpy as np

from saev.codes.images import ImageList
from saev.metrics.class_mass import Tree, hierarchy

if TYPE_CHECKING:
    import pandas as pd


def add_tree_places(
    table: "pd.DataFrame", exemplars: "pd.DataFrame", images: ImageList, tree: Tree
) -> None:
    """Adds lca_depth, lch, lch_height and coverage of the labels of the strongest images that the
    tree knows; nothing for latents with fewer than two such images."""
    n = len(table)
    numbers = {name: np.full(n, np.nan) for name in ("lca_depth", "lch_height", "coverage")}
    lowest = np.full(n, None, object)
    strongest = exemplars[exemplars["role"] == "max"]
    for latent, rows in strongest.groupby("latent"):
        labels = (class_of(images, int(image)) for image in rows["image"])
        known = [label for label in labels if label is not None and label in tree.parent]
        if len(known) < 2:
            continue
        place = hierarchy(known, tree)
        for name, column in numbers.items():
            value = getattr(place, name)
            column[int(latent)] = np.nan if value is None else value  # type: ignore[arg-type]
        lowest[int(latent)] = place.lch  # type: ignore[arg-type]
    for name, column in numbers.items():
        table[name] = column
    table["lch"] = lowest


def class_of(images: ImageList, image: int) -> str | None:
    """Name of an image's class; None without one."""
    name, item = images.entries[image]
    names = images.sources[name].class_names
    return None if item.label is None or names is None else names[item.label]
