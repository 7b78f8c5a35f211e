"""Classes of patches against counting pixel by pixel."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from datamodules.patches import (
    IGNORE,
    majority_of_labelled,
    majority_with_share,
    patch_counts,
    patch_shares,
)

H, W, N_CLASSES = 7, 9, 3
GRIDS = st.sampled_from([(2, 2), (3, 2), (1, 4), (7, 9)])


def pixels_of(mask: np.ndarray, grid: tuple[int, int]) -> list[list[int]]:
    """The values of each patch's pixels, patches row by row."""
    return [
        [
            int(mask[y, x])
            for y in range(H)
            for x in range(W)
            if (y * grid[0] // H, x * grid[1] // W) == (row, column)
        ]
        for row in range(grid[0])
        for column in range(grid[1])
    ]


@given(st.integers(0, 2**31), GRIDS, st.sampled_from([np.uint8, np.int64]))
def test_classes_of_patches_by_counting(seed: int, grid: tuple[int, int], dtype: type) -> None:
    generator = np.random.default_rng(seed)
    mask = generator.choice([0, 1, 2, IGNORE], size=(H, W)).astype(dtype)
    counts = patch_counts(mask, grid, N_CLASSES)
    labels = majority_of_labelled(mask, grid, N_CLASSES)
    most, share = majority_with_share(mask, grid, N_CLASSES)
    shares = patch_shares(mask, grid, N_CLASSES)
    for patch, pixels in enumerate(pixels_of(mask, grid)):
        expected = [pixels.count(value) for value in (0, 1, 2, IGNORE)]
        known, void = expected[:-1], expected[-1]
        assert counts[patch].tolist() == expected
        assert shares[patch].tolist() == [n / len(pixels) for n in expected]
        best = known.index(max(known))
        assert labels[patch] == (IGNORE if void * 2 > len(pixels) else best)
        assert most[patch] == (-1 if void > max(known) else best)
        assert share[patch] == max(expected) / len(pixels)


def test_most_pixels_and_most_labelled_pixels_differ() -> None:
    """Four of ten pixels without a class outnumber any class, but are not more than half."""
    mask = np.array([[0, 0, 0, 1, 1, 1, IGNORE, IGNORE, IGNORE, IGNORE]])
    assert majority_of_labelled(mask, (1, 1), 2).tolist() == [0]
    assert [part.tolist() for part in majority_with_share(mask, (1, 1), 2)] == [[-1], [0.4]]
