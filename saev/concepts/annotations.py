"""Annotations: labels per image or per patch, from image sources and from tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import sparse

from datamodules.images import ImageItem, ImageSource, ScenesImages
from datamodules.images.selection import draw
from datamodules.patches import patch_shares
from datamodules.scenes import ATTRIBUTES
from saev.backbones import Backbone
from saev.concepts.best_latents import Concepts
from saev.errors import UserError
from saev.files import read_parquet, shown

CALIBRATION_SHARE = 0.25
"""Of the training images: they set thresholds and choose nothing."""
TEST_SHARE = 0.3
"""Of the images of a source that holds none out."""
MOST_TABLE_BYTES = 1 << 27
MAX_VALUES = 200
"""Distinct values of a text column above which it is an identifier rather than an attribute."""


def assign_splits(items: Sequence[ImageItem], seed: int) -> list[str]:
    """discovery, calibration or test for every image, by a draw that belongs to its id.

    Held-out images are the test split. Where a source holds none out, ``TEST_SHARE`` is drawn.
    """
    held_out = any(item.split != "train" for item in items)
    splits = []
    for item in items:
        if (held_out and item.split != "train") or (
            not held_out and draw(seed, "test", item.image_id) < TEST_SHARE
        ):
            splits.append("test")
        elif draw(seed, "calibration", item.image_id) < CALIBRATION_SHARE:
            splits.append("calibration")
        else:
            splits.append("discovery")
    return splits


def concepts_of(
    source: ImageSource,
    items: Sequence[ImageItem],
    first: int,
    backbone: Backbone,
    *,
    masks: str = "majority",
    table: str | None = None,
    seed: int = 0,
) -> list[Concepts]:
    """All concepts that a source's images carry.

    Args:
        source: labels, masks and, for scenes, ground-truth attributes come from it.
        items: its images, in the order of the store.
        first: position of the first of them in the store.
        backbone: its grid cuts masks into patches.
        masks: "majority": a patch has the class that covers at least half of it; "share": every
            class to the share it covers.
        table: a CSV or parquet file with a column image_id and a column per attribute.

    Raises:
        UserError: a table that is unreadable or does not match the images.
    """
    positions = np.arange(first, first + len(items))
    splits = assign_splits(items, seed)
    found = []
    named = source.class_names or []
    labels = np.array([-1 if item.label is None else item.label for item in items])
    if len(named) > 1 and (labels >= 0).any() and not isinstance(source, ScenesImages):
        found.append(_classes(source.name, named, labels, positions, splits))
    if isinstance(source, ScenesImages):
        rows = [source.attributes(item) for item in items]
        found.append(_attributes(source.name, rows, positions, splits))
    if table is not None:
        every = [item.image_id for item in source.items]
        row_of = dict(zip(every, read_table(Path(table), every), strict=True))
        rows = [row_of[item.image_id] for item in items]
        known = [index for index, row in enumerate(rows) if row]
        if any(any(row.values()) for row in rows):
            found.append(
                _attributes(Path(table).stem, [rows[i] for i in known], positions[known],
                            [splits[i] for i in known])
            )  # fmt: skip
    if isinstance(source, ScenesImages):
        found.append(_objects(source, items, positions, splits, backbone))
    elif named and source.mask(items[0]) is not None:
        shares = np.stack([class_shares(source.mask(item), len(named), backbone) for item in items])
        found.append(_masks(source.name, list(named), shares, positions, splits, masks))
    return found


def class_shares(
    mask: np.ndarray | None, n_classes: int, backbone: Backbone
) -> Float[np.ndarray, "p c"]:
    """Share of every patch that each class covers; pixels without a class count for none."""
    assert mask is not None
    pixels = backbone.mask_transform(mask).numpy()
    return patch_shares(pixels, backbone.grid, n_classes)[:, :n_classes]


def read_table(path: Path, image_ids: Sequence[str]) -> list[dict[str, str]]:
    """Attributes of every image from a table, {} for images it does not name.

    A column of 0/1 or true/false is an attribute that is there or not; a text column has a concept
    per value. Empty cells say nothing.

    Raises:
        UserError: no such file, unreadable, no image_id column, an image twice or unknown, a
            column of numbers or of too many values, or no attribute of any image.
    """
    import pandas as pd

    if not path.is_file():
        raise UserError(f"{path} is not a file; give a CSV or parquet file with an image_id column")
    try:
        if path.stat().st_size > MOST_TABLE_BYTES:
            raise UserError(f"{path} has more than {MOST_TABLE_BYTES:,} bytes; leave columns out")
        frame = read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
        if path.suffix != ".parquet" and not isinstance(frame.index, pd.RangeIndex):
            raise UserError(
                f"{path} has rows with more cells than the first; quote what holds commas"
            )
    except UserError:
        raise
    except Exception as error:  # parsers fail in many ways, all meaning the same
        raise UserError(f"{path} cannot be read as a table; save it again") from error
    if "image_id" not in frame.columns:
        raise UserError(
            f"{path} has no column image_id (it has {', '.join(map(str, frame.columns))})"
        )
    if len(frame.columns) == 1:
        raise UserError(f"{path} has the column image_id alone; add a column for each attribute")
    ids = frame["image_id"].map(str)
    if ids.duplicated().any():
        raise UserError(f"{path} names the image {ids[ids.duplicated()].iloc[0]!r} twice")
    unknown = sorted(set(ids) - set(image_ids))
    if unknown:
        raise UserError(
            f"{path} names {len(unknown):,} images that are not in the source, first {unknown[0]!r}; "
            f"its ids look like {image_ids[0]!r}"
        )
    rows: dict[str, dict[str, str]] = {image_id: {} for image_id in image_ids}
    for column in frame.columns.drop("image_id"):
        values = frame[column]
        present = values.notna()
        if pd.api.types.is_numeric_dtype(values):
            if not set(values[present].unique()) <= {0, 1}:
                raise UserError(
                    f"{path}: the column {column} holds numbers; cut it into named ranges, or use 0 and 1"
                )
            texts = values.map({0: "", 1: "yes"})
        else:
            if stray := [one for one in values[present] if not isinstance(one, str | bool)]:
                raise UserError(
                    f"{path}: the column {column} holds {shown(stray[0])}; give text, or use 0 and 1"
                )
            texts = values.map(str)
            if texts[present].nunique() > MAX_VALUES:
                raise UserError(
                    f"{path}: the column {column} has {texts[present].nunique():,} different values, "
                    f"more than {MAX_VALUES}; leave it out"
                )
        for image_id, text, there in zip(ids, texts, present, strict=True):
            if there:
                rows[image_id][str(column)] = str(text)
    if not any(any(row.values()) for row in rows.values()):
        raise UserError(f"{path} gives no image an attribute; fill in some cells")
    return [rows[image_id] for image_id in image_ids]


def _classes(
    source: str, names: list[str], labels: np.ndarray, positions: np.ndarray, splits: list[str]
) -> Concepts:
    known = (labels >= 0).nonzero()[0]
    entries = (np.ones(len(known)), (np.arange(len(known)), labels[known]))
    return Concepts(
        source=source,
        kind="class",
        names=list(names),
        images=positions[known],
        splits=[splits[index] for index in known],
        labels=sparse.csr_matrix(entries, shape=(len(known), len(names))),
    )


def _attributes(
    source: str, rows: Sequence[Mapping[str, str]], positions: np.ndarray, splits: list[str]
) -> Concepts:
    """One concept per attribute and value; "yes" alone is a concept without a value."""
    pairs = sorted({(k, v) for row in rows for k, v in row.items() if v})
    number = {pair: index for index, pair in enumerate(pairs)}
    at = [(r, number[pair]) for r, row in enumerate(rows) for pair in row.items() if pair in number]
    row_index, concept = zip(*at, strict=True) if at else ((), ())
    shape = (len(rows), len(pairs))
    return Concepts(
        source=source,
        kind="attribute",
        names=[k if v == "yes" else f"{k}={v}" for k, v in pairs],
        images=positions,
        splits=splits,
        labels=sparse.csr_matrix((np.ones(len(at)), (row_index, concept)), shape=shape),
    )


OBJECT_ATTRIBUTES = ("shape", "colour", "texture", "size", "column", "row")
MAX_OBJECTS = 3


def _objects(
    source: ScenesImages,
    items: Sequence[ImageItem],
    positions: np.ndarray,
    splits: list[str],
    backbone: Backbone,
) -> Concepts:
    """Every object's own attributes on the patches it covers; the rest of a scene has none.

    Labels of whole scenes speak of the main object only, while its companions light latents up too.
    """
    names = [f"{a}={value}" for a in OBJECT_ATTRIBUTES for value in ATTRIBUTES[a]]
    starts = np.cumsum([0, *(len(ATTRIBUTES[a]) for a in OBJECT_ATTRIBUTES)])[:-1]
    n_tokens = backbone.grid[0] * backbone.grid[1]
    at: list[tuple[np.ndarray, np.ndarray]] = []
    usable = np.zeros((len(items), n_tokens), bool)
    for number, item in enumerate(items):
        scene = source.scene(item)
        shares = class_shares(scene.object_mask, 1 + MAX_OBJECTS, backbone)
        owner = shares.argmax(1)
        usable[number] = shares[np.arange(n_tokens), owner] >= 0.5
        for index, thing in enumerate(scene.objects):
            rows = (owner == index + 1).nonzero()[0] + number * n_tokens
            for start, attribute in zip(starts, OBJECT_ATTRIBUTES, strict=True):
                at.append((rows, np.full(len(rows), start + getattr(thing, attribute))))
    rows, columns = (np.concatenate(column) for column in zip(*at, strict=True))
    shape = (len(items) * n_tokens, len(names))
    return Concepts(
        source=source.name,
        kind="mask",
        names=names,
        images=positions,
        splits=splits,
        labels=sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=shape),
        usable=usable.ravel(),
    )


def _masks(
    source: str,
    names: list[str],
    shares: Float[np.ndarray, "i p c"],
    positions: np.ndarray,
    splits: list[str],
    masks: str,
) -> Concepts:
    if masks not in ("majority", "share"):
        raise UserError(f"masks={masks!r}; choose majority or share")
    rows = shares.reshape(-1, len(names))
    if masks == "majority":
        largest = rows.argmax(1)
        sure = rows[np.arange(len(rows)), largest] >= 0.5
        rows = np.eye(len(names))[largest] * sure[:, None]
        usable = sure
    else:
        usable = rows.sum(1) >= 0.5  # the rest is mostly pixels without a class
    return Concepts(
        source=source,
        kind="mask",
        names=names,
        images=positions,
        splits=splits,
        labels=sparse.csr_matrix(rows),
        usable=usable,
    )


def restrict(concepts: Concepts, normal_bp: Any) -> Concepts:
    """Without the patches that the dictionary does not answer for."""
    if not concepts.on_patches:
        return concepts
    from dataclasses import replace

    normal = np.asarray(normal_bp)[concepts.images].ravel()
    return replace(concepts, usable=concepts.usable & normal)
