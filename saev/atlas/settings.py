"""Settings of an atlas: the nodes ``atlas`` and ``naming`` of conf/describe.yaml."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from saev.errors import UserError
from saev.metrics.class_mass import Tree


@dataclass(frozen=True)
class AtlasSettings:
    """What ``atlas`` in conf/describe.yaml holds."""

    n_images: int | None = None
    batch_size: int = 32
    num_workers: int = 2
    images_per_part: int = 256
    shard: tuple[int, int] = (0, 1)
    n_top: int = 16
    masks: str = "majority"
    tables: Mapping[str, str] = field(default_factory=dict)
    foreign: Sequence[str] = ()
    seeds: Sequence[str] = ()
    n_permutations: int = 1000
    n_map_permutations: int = 200
    fdr: float = 0.05
    baseline_images: int = 400
    keep_codes: bool = True
    seed: int = 0


@dataclass(frozen=True)
class NamingSettings:
    """What ``naming`` in conf/describe.yaml holds."""

    proposers: Sequence[str] = ("concept", "vote", "effect", "text", "wpmi", "tree")
    min_confidence: float = 0.3
    strength: float = 2.0
    n_images: int = 8
    n_latents: int | None = None
    n_random: int = 64
    batch_size: int = 64
    vocabulary: str | None = None
    tree: str | None = None


def read_tree(path: str | None) -> Tree | None:
    """A hierarchy from a CSV file with columns child and parent."""
    if path is None:
        return None
    import pandas as pd

    try:
        frame = pd.read_csv(path, dtype=str)
        return Tree(dict(zip(frame["child"], frame["parent"], strict=True)))
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            f"naming.tree={path} is not a CSV file with columns child and parent: {error}"
        ) from error


def read_vocabulary(path: str | None) -> list[str] | None:
    """One candidate name per line."""
    if path is None:
        return None
    if not Path(path).is_file():
        raise UserError(
            f"naming.vocabulary={path} is not a file; give a text file, a name per line"
        )
    words = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    words = list(dict.fromkeys(word for word in words if word))
    if len(words) < 2:
        raise UserError(f"naming.vocabulary={path} holds {len(words)} names; give two or more")
    return words
