"""The figures say what they are given; checked by reading the drawn artists and pixels."""

import numpy as np
import pandas as pd

from saev.pages.figures import (
    LatentRow,
    Tile,
    exemplar_figure,
    firing_histogram,
    latent_scatter,
)


def tile(hot: tuple[int, int], value: float) -> Tile:
    codes = np.zeros((4, 4), dtype=np.float32)
    codes[hot] = value
    return Tile(np.full((32, 32, 3), 200, dtype=np.uint8), codes)


def test_strongest_patch_is_framed_and_unveiled() -> None:
    rows = [LatentRow(7, "fires on 1 %", [tile((1, 2), 2.0), tile((3, 0), 1.0)])]
    figure = exemplar_figure("title", rows)
    first, second = figure.axes[:2]
    assert first.get_title() == "2.00"
    frame = first.patches[0]
    assert (frame.get_x(), frame.get_y()) == (2 * 8 - 0.5, 1 * 8 - 0.5)
    veil_first, veil_second = (axis.images[1].get_array()[..., 3] for axis in (first, second))
    assert veil_first[1, 2] == 0.0  # the row's maximum is fully visible
    assert veil_second[3, 0] == veil_second.min() > 0  # same scale: half as strong, half veiled
    assert "latent 7" in first.texts[0].get_text()


def test_rows_of_different_length_are_allowed() -> None:
    rows = [LatentRow(1, "", [tile((0, 0), 1.0)]), LatentRow(2, "", [tile((0, 0), 1.0)] * 3)]
    figure = exemplar_figure("title", rows)
    assert len(figure.axes) == 6


def test_histogram_counts_every_alive_latent_and_names_the_rest() -> None:
    frequency = np.array([0.0, 0.0, 1e-4, 1e-3, 0.2, 0.5])
    figure = firing_histogram(frequency, n_tokens=10_000)
    axis = figure.axes[0]
    assert sum(patch.get_height() for patch in axis.patches) == 4
    assert "2 never fire, 2 fire on more than 10 %" in axis.get_title()


def test_a_dictionary_without_a_latent_to_show_is_drawn() -> None:
    columns = ["rate_image", "ms_support", "ms_corrected", "ms", "ms_null"]
    figure = latent_scatter(pd.DataFrame({name: [0.0] for name in columns}), "few images")
    figure.canvas.draw()
    assert figure.axes[0].get_title() == "0 latents with support; few images"
