"""Crops of pictures around a patch."""

from PIL import Image

AROUND = 1
"""Patches on each side of the one in the middle."""
SIDE = 112
"""Pixels of the result."""


def crop_around(picture: Image.Image, patch: int, grid: tuple[int, int]) -> Image.Image:
    """The patch with its neighbours, moved inwards at the edge."""
    rows, columns = grid
    n_rows, n_columns = min(2 * AROUND + 1, rows), min(2 * AROUND + 1, columns)
    row = min(max(patch // columns - AROUND, 0), rows - n_rows)
    column = min(max(patch % columns - AROUND, 0), columns - n_columns)
    high, wide = picture.height / rows, picture.width / columns
    box = (column * wide, row * high, (column + n_columns) * wide, (row + n_rows) * high)
    return picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box)
