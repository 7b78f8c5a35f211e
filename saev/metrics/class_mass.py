"""Class mass: how a latent's activation spreads over labels, and over the tree of labels.

Suffixes: s latents, c classes.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


def label_entropy(mass_sc: Float[np.ndarray, "s c"]) -> Float[np.ndarray, " s"]:
    """H_k = −Σ_c p_c ln p_c in nats, p_c the share of the latent's activation on images of class c.

    0 for a latent of one class; ln C for one that fires alike on all. nan for a dead latent. On few
    images it is small by chance: the largest possible value is ln of the number of images.
    Source: Lim et al. 2025 (PatchSAE).
    """
    total = mass_sc.sum(1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = mass_sc / total
        terms = np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0)
    return np.where(total[:, 0] > 0, -terms.sum(1), np.nan)


class Tree:
    """A hierarchy of names, child → parent; every chain must end in a root.

    Args:
        parent: of every name but the roots.

    Raises:
        ValueError: the chain of some name runs in a circle.
    """

    def __init__(self, parent: Mapping[str, str]) -> None:
        self.parent = dict(parent)
        self.leaves: dict[str, set[str]] = {}
        inner = set(self.parent.values())
        for name in self.parent:
            path = self.path(name)
            if name not in inner:
                for ancestor in path:
                    self.leaves.setdefault(ancestor, set()).add(name)

    def path(self, name: str) -> list[str]:
        """From the root down to the name itself."""
        path = [name]
        while path[-1] in self.parent:
            path.append(self.parent[path[-1]])
            if len(path) > len(self.parent) + 1:
                raise ValueError(f"the parents of {name!r} run in a circle")
        return path[::-1]

    def common(self, names: Sequence[str]) -> list[str]:
        """The path from the root to the lowest common ancestor; empty without one."""
        paths = [self.path(name) for name in names]
        shared = []
        for level in zip(*paths, strict=False):
            if len(set(level)) > 1:
                break
            shared.append(level[0])
        return shared

    def height(self, name: str) -> int:
        """Longest way down to a leaf; 0 for a leaf."""
        depth = len(self.path(name))
        return max((len(self.path(leaf)) - depth for leaf in self.leaves.get(name, ())), default=0)


class Hierarchy(NamedTuple):
    """Place of a set of classes in a tree."""

    lca_depth: float
    """Mean over pairs of images of the number of ancestors shared (Pach et al. 2025)."""
    lch: str | None
    """Lowest common hypernym of all classes."""
    lch_height: int | None
    """Its longest way down to a leaf: 0 for a single class (after Olson et al. 2025, our reading)."""
    coverage: float | None
    """Share of the leaves below it that occur (ontological coverage, our reading)."""


def hierarchy(classes: Sequence[str], tree: Tree) -> Hierarchy:
    """Of the classes of a latent's strongest images, one entry per image.

    Null value: the same for as many random images.
    """
    depths = [
        len(tree.common([one, two]))
        for index, one in enumerate(classes)
        for two in classes[index + 1 :]
    ]
    shared = tree.common(sorted(set(classes)))
    depth = float(np.mean(depths)) if depths else float("nan")
    if not shared:
        return Hierarchy(depth, None, None, None)
    leaves = tree.leaves.get(shared[-1], {shared[-1]})
    return Hierarchy(
        depth, shared[-1], tree.height(shared[-1]), len(set(classes) & leaves) / len(leaves)
    )


def back_off(mass: Mapping[str, float], tree: Tree, share: float = 0.9) -> tuple[str, float] | None:
    """Deepest node that holds at least ``share`` of the mass, and how much it holds.

    None where only a root does, which says nothing.
    """
    total = sum(mass.values())
    held: dict[str, float] = {}
    for name, value in mass.items():
        for ancestor in tree.path(name):
            held[ancestor] = held.get(ancestor, 0.0) + value
    good = [
        (len(tree.path(node)), node)
        for node, value in held.items()
        if total > 0 and value >= share * total and node in tree.parent
    ]
    if not good:
        return None
    node = max(good)[1]
    return node, held[node] / total
