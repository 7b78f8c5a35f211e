"""Held-out images, and images under a limit: seeded draws per image id.

A draw depends on seed and id alone, so images that come or go do not move the others.
"""

import os
from collections.abc import Sequence
from hashlib import blake2b

SPLITS = ("train", "val", "test")


def draw(seed: int, purpose: str, image_id: str) -> float:
    """Uniform in [0, 1), independent between purposes."""
    text = f"{seed}\0{purpose}\0".encode() + os.fsencode(image_id)
    # 53 bits are what a float holds exactly, so the result stays below 1.
    return (int.from_bytes(blake2b(text, digest_size=8).digest(), "big") >> 11) / 2**53


def decide_splits(
    image_ids: Sequence[str], stated: Sequence[str | None], val_fraction: float, seed: int
) -> list[str]:
    """Stated splits as they are; of the other images the share `val_fraction` becomes "val".

    Where the draws leave nothing to train on or nothing held out in the whole set, the image whose
    draw came closest changes sides (never with `val_fraction` 0).
    """
    draws = {
        number: draw(seed, "split", image_ids[number])
        for number, split in enumerate(stated)
        if split is None
    }
    splits = [
        split or ("val" if draws[number] < val_fraction else "train")
        for number, split in enumerate(stated)
    ]
    if draws and val_fraction > 0 and len(splits) > 1:
        if all(split == "train" for split in splits):
            splits[min(draws, key=draws.__getitem__)] = "val"
        elif "train" not in splits:
            splits[max(draws, key=draws.__getitem__)] = "train"
    return splits


def limit_images(
    image_ids: Sequence[str], splits: Sequence[str], n_images: int, seed: int
) -> list[int]:
    """Positions of at most `n_images` images, ascending; a smaller limit gives a subset.

    Within a split the order is drawn; the i-th of m images stands at (i + ½) / m, and the limit
    cuts all splits at one such place, which keeps their proportions. The first image to train on
    and the first one held out come before all others, so both sides exist from two images on.
    """
    place: dict[int, tuple[float, float]] = {}
    for split in SPLITS:
        draws = [
            (draw(seed, "limit", image_ids[number]), number)
            for number, own in enumerate(splits)
            if own == split
        ]
        for rank, (value, number) in enumerate(sorted(draws)):
            place[number] = ((rank + 0.5) / len(draws), value)
    order = sorted(place, key=place.__getitem__)
    train = next((number for number in order if splits[number] == "train"), None)
    heldout = next((number for number in order if splits[number] != "train"), None)
    first = [number for number in (train, heldout) if number is not None]
    rest = [number for number in order if number not in first]
    return sorted((first + rest)[:n_images])
