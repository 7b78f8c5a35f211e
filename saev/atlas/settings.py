"""Settings of an atlas: the nodes ``atlas`` and ``naming`` of conf/describe.yaml."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from saev.errors import UserError
from saev.files import read_whole, shown
from saev.metrics.class_mass import Tree

GIVE_TREE = "give a CSV file with columns child and parent"


@dataclass(frozen=True)
class AtlasSettings:
    """What ``atlas`` in conf/describe.yaml holds."""

    n_images: int | None
    batch_size: int
    num_workers: int
    images_per_part: int
    shard: Sequence[int]
    """Number of this process, and of how many."""
    n_top: int
    masks: str
    tables: Mapping[str, str]
    foreign: Sequence[str]
    seeds: Sequence[str]
    n_permutations: int
    n_map_permutations: int
    fdr: float
    baseline_images: int
    keep_codes: bool
    seed: int

    def __post_init__(self) -> None:
        number, count = self.shard if len(self.shard) == 2 else (0, 0)
        if not number < count:
            raise UserError(
                f"atlas.shard={list(self.shard)} must be this process's number, from 0, and how many "
                "share the images, such as [0,4] to [3,4]"
            )


@dataclass(frozen=True)
class NamingSettings:
    """What ``naming`` in conf/describe.yaml holds."""

    proposers: Sequence[str]
    min_confidence: float
    strength: float
    n_images: int
    n_latents: int | None
    n_random: int
    batch_size: int
    vocabulary: str | None
    tree: str | None


def read_tree(path: str | None) -> Tree | None:
    """A hierarchy from a CSV file with columns child and parent, and a row for each child."""
    if path is None:
        return None
    import pandas as pd

    where = f"naming.tree={path}"
    text = read_whole(Path(path), GIVE_TREE)
    try:
        frame = pd.read_csv(BytesIO(text), dtype=str).dropna(subset=["child", "parent"])
        tree = Tree(dict(zip(frame["child"], frame["parent"], strict=True)))
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{where} is not a CSV file with columns child and parent: {error}"
        ) from error
    if frame.empty:
        raise UserError(f"{where} has no row with child and parent; {GIVE_TREE}")
    pairs = frame[["child", "parent"]].drop_duplicates()
    if (again := pairs["child"].duplicated()).any():
        child = shown(pairs["child"][again].iloc[0])
        raise UserError(f"{where} gives {child} more than one parent; leave it one")
    return tree


def read_vocabulary(path: str | None) -> list[str] | None:
    """One candidate name per line."""
    if path is None:
        return None
    if not Path(path).is_file():
        raise UserError(
            f"naming.vocabulary={path} is not a file; give a text file, a name per line"
        )
    try:
        text = read_whole(Path(path), "give fewer names").decode()
    except UnicodeDecodeError as error:
        raise UserError(f"naming.vocabulary={path} is no text in UTF-8; save it as such") from error
    words = [line.strip() for line in text.splitlines()]
    words = list(dict.fromkeys(word for word in words if word))
    if len(words) < 2:
        raise UserError(f"naming.vocabulary={path} holds {len(words)} names; give two or more")
    return words
