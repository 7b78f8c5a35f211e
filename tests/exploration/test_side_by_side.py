"""Two dictionaries on one picture: places, rankings, latents that fire alike, what the page shows of it."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.images import ScenesImages
from saev.errors import UserError
from saev.exploration.app import desk
from saev.exploration.app.compare_panel import SECOND
from saev.exploration.app.panels import Panels
from saev.exploration.explorer import Explorer
from saev.exploration.side_by_side import on_grid, same_places, side_by_side
from saev.exploration.view_state import ViewState


@pytest.mark.parametrize(
    ("patches", "of", "to", "expected"),
    [
        ([0, 143], (12, 12), (12, 12), (0, 143)),
        ([0], (2, 2), (4, 4), (0, 1, 4, 5)),
        ([5, 6], (4, 4), (2, 2), (0, 1)),
        ([4], (3, 3), (2, 2), (0, 1, 2, 3)),
        ([], (3, 3), (2, 2), ()),
    ],
)
def test_marks_lie_on_the_same_places(
    patches: list[int], of: tuple[int, int], to: tuple[int, int], expected: tuple[int, ...]
) -> None:
    assert same_places(patches, of, to) == expected


def test_a_map_on_a_finer_grid_keeps_its_places() -> None:
    heat = np.arange(4, dtype=np.float32).reshape(2, 2)
    fine = on_grid(heat, (4, 6))
    assert fine.shape == (4, 6)
    np.testing.assert_array_equal(fine[:2, :3], 0)
    np.testing.assert_array_equal(fine[2:, 3:], 3)


def test_both_rankings_are_those_of_each_alone(pair: Explorer) -> None:
    second = pair.second
    assert second is not None and pair.grid == (12, 12) and second.grid == (2, 2)
    key = pair.gallery[0].key
    found = side_by_side(pair, second, key, [0, 1, 12], n=5)
    assert found.first == pair.look(key, [0, 1, 12], n=5)
    assert found.second == second.look(key, [0], n=5) and found.second_patches == (0,)
    assert found.alike == []


def test_a_dictionary_beside_itself_fires_alike(sae_dir: Path, scenes: ScenesImages) -> None:
    twice = Explorer.open(sae_dir, images=scenes, n_images=8, also=sae_dir, device="cpu")
    assert twice.second is not None
    key = twice.gallery[0].key
    latent = twice.look(key, None)[0].latent
    found = side_by_side(twice, twice.second, key, (), latent)
    assert found.alike[0].latent == latent and found.alike[0].cosine == pytest.approx(1.0)
    assert found.first == found.second
    silent = next(k for k in range(twice.d_sae) if not twice.heatmap(key, k).any())
    assert side_by_side(twice, twice.second, key, (), silent).alike == []


def test_cosines_are_of_both_heat_maps(pair: Explorer) -> None:
    second, key = pair.second, pair.gallery[1].key
    assert second is not None
    latent = pair.look(key, None)[0].latent
    best = side_by_side(pair, second, key, (), latent).alike
    assert best == sorted(best, key=lambda one: -one.cosine) and 1 <= len(best) <= 5
    a = pair.heatmap(key, latent).ravel()
    b = np.kron(second.heatmap(key, best[0].latent), np.ones((6, 6))).ravel()
    assert best[0].cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), rel=1e-5)


def test_both_know_every_picture_and_upload(pair: Explorer) -> None:
    second = pair.second
    assert second is not None
    assert set(pair.pictures.items) == set(second.pictures.items)
    file = io.BytesIO()
    Image.new("RGB", (60, 40), "red").save(file, "png")
    key = pair.add_image(file.getvalue())
    assert pair.picture(key).size == (96, 96) and second.picture(key).size == (32, 32)


def test_dictionaries_on_other_images_are_not_laid_beside(pair: Explorer, sae_dir: Path) -> None:
    other = Explorer.open(
        sae_dir, images=ScenesImages(n_images=40, seed=9), n_images=8, device="cpu"
    )
    with pytest.raises(UserError, match="images"):
        other.lay_beside(pair)


def test_the_page_shows_both(pair: Explorer) -> None:
    panels, plain = Panels(pair), desk.first_view(pair, None)
    assert plain.key is not None and pair.second is not None
    view = replace(
        plain,
        latent=pair.look(plain.key, None)[0].latent,
        second=pair.second.look(plain.key, None)[0].latent,
    )
    html = panels.compared(view)
    assert html.count("<section>") == 2 and "12 × 12 patches" in html and "2 × 2 patches" in html
    assert f'data-pick="{view.latent}" aria-pressed="true"' in html
    assert f'data-pick="{SECOND}{view.second}" aria-pressed="true"' in html
    assert f"What fires like latent {view.latent}" in html
    assert desk.first_view(pair, view.to_link()) == view


def test_without_a_second_there_is_nothing_to_compare(explorer: Explorer) -> None:
    view = desk.first_view(explorer, None)
    assert Panels(explorer).compared(view) == ""
    with pytest.raises(UserError, match="also=DIR"):
        desk.first_view(explorer, ViewState(second=0).to_link())
