"""Steps and panels of the explorer's page without a browser."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from saev.errors import UserError
from saev.exploration.app import desk
from saev.exploration.app.markup import html_table, notice, percent, short_number, words
from saev.exploration.app.outcome_panel import outcome_html, verdict_sentence
from saev.exploration.app.panels import SEARCHES, Panels
from saev.exploration.app.picture import gallery_strip, patch_picture, patches_of, patches_text
from saev.exploration.explorer import Explorer
from saev.exploration.view_state import ViewState

HOSTILE = '<img src=x onerror="alert(1)">${alert(1)}'


@pytest.fixture(scope="module")
def view(explorer: Explorer) -> ViewState:
    """A picture with the strongest latent open and switched off."""
    plain = desk.first_view(explorer, None)
    assert plain.key is not None
    latent = explorer.look(plain.key, None)[0].latent
    return desk.with_new_edit(replace(plain, latent=latent), fires=True)


@pytest.mark.parametrize(
    ("text", "patches"),
    [("", ()), ("3", (3,)), ("7-9, 3", (3, 7, 8, 9)), ("1 2;3", (1, 2, 3)), ("5,5", (5,))],
)
def test_patches_are_typed(text: str, patches: tuple[int, ...]) -> None:
    assert patches_of(text, 16) == patches
    assert patches_of(patches_text(patches), 16) == patches


@pytest.mark.parametrize("text", ["16", "-1", "a", "3-", "9-7", "1.5", "99999999999"])
def test_patches_that_are_not_there(text: str) -> None:
    with pytest.raises(UserError, match="patches"):
        patches_of(text, 16)


def test_others_text_is_escaped() -> None:
    assert "<" not in words(HOSTILE) and '"' not in words(HOSTILE)
    assert "<img" not in notice(HOSTILE)
    assert "<img" not in html_table([(HOSTILE, HOSTILE)], [])

    class Hostile:
        key, title, thumbnail = HOSTILE, HOSTILE, Image.new("RGB", (8, 8))

    assert "onerror=" not in gallery_strip([Hostile()], "").replace("onerror=&quot;", "")


def test_numbers_are_short() -> None:
    assert (short_number(float("nan")), short_number(0.12345), short_number(1234.5)) == (
        "–",
        "0.12",
        "1,234",
    )
    assert (percent(0.5), percent(0.012), percent(None)) == ("50 %", "1.2 %", "–")


def test_the_grid_has_a_cell_for_each_patch() -> None:
    heat = np.zeros((2, 3), np.float32)
    image = Image.new("RGB", (30, 20))
    html = patch_picture(image, (2, 3), {4}, heat)
    assert html.count("data-patch=") == 6 and html.count("class=marked") == 1
    assert 'class="heat"' not in html
    heat[1, 1] = 2.0
    assert 'class="heat"' in patch_picture(image, (2, 3), (), heat)


def test_edits_come_change_and_go(view: ViewState) -> None:
    assert view.edits[0]["scale"] == 0.0 and desk.amount_of(view.edits[0]) == 0.0
    scaled = desk.with_edit(view, 0, "scale", 99.0)
    assert scaled.edits[0]["factor"] == desk.LARGEST_AMOUNT
    assert desk.with_edit(view, 0, "ablate", 1.0).edits[0].keys() == {"kind", "latents", "where"}
    assert desk.with_edit(view, 3, "set", 1.0) == view
    assert desk.without_edit(view, 0).edits == ()
    with pytest.raises(UserError, match="already"):
        desk.with_new_edit(view, True)
    with pytest.raises(UserError, match="open a latent"):
        desk.with_new_edit(replace(view, latent=None), True)
    full = view
    for latent in range(90, 90 + desk.MOST_SLOTS - 1):
        full = desk.with_new_edit(replace(full, latent=latent), False)
    with pytest.raises(UserError, match="all are taken"):
        desk.with_new_edit(replace(full, latent=95), False)


def test_marks_and_places_stay_together(view: ViewState) -> None:
    with pytest.raises(UserError, match="none is marked"):
        desk.with_where(view, "patches")
    marked = desk.with_where(desk.with_patches(view, [5, 3, 5]), "patches")
    assert marked.patches == (3, 5) and marked.edited_patches == (3, 5)
    assert desk.with_patches(marked, []).where == "all"
    assert desk.with_image(marked, "0" * 16).patches == ()


def test_a_link_restores_the_view(explorer: Explorer, view: ViewState) -> None:
    assert desk.first_view(explorer, view.to_link()) == view


@pytest.mark.parametrize(
    "state",
    [
        ViewState(key="0" * 16),
        ViewState(latent=10**6),
        ViewState(patches=(9999,)),
        ViewState(edits=({"kind": "ablate", "latents": [10**6]},)),
        ViewState(edits=({"kind": "clamp", "latents": [1], "low": 0.0, "high": 1.0},)),
    ],
)
def test_a_link_of_another_dictionary_is_refused(explorer: Explorer, state: ViewState) -> None:
    with pytest.raises(UserError):
        desk.first_view(explorer, state.to_link())


def test_every_panel_shows_the_view(explorer: Explorer, view: ViewState) -> None:
    panels = Panels(explorer)
    assert 'aria-pressed="true"' in panels.gallery(view)
    assert f'data-pick="{view.latent}" aria-pressed="true"' in panels.ranking(view)
    assert f"Latent {view.latent}" in panels.opened(view)
    assert panels.exemplars(view).count("<figure") == 8
    assert "Insertion" in panels.causes(view)
    assert "Your edit" in panels.outcome(view)
    kept = panels.keep(view)
    for name in ("explorer.png", "explorer.json", "explorer.py", f"?view={view.to_link()}"):
        assert name in kept


def test_searches_start_from_what_is_on_screen(explorer: Explorer, view: ViewState) -> None:
    panels = Panels(explorer)
    like = panels.search(view, SEARCHES[2], "")
    assert "data-pick=" in like
    marked = desk.with_patches(view, [1, 2])
    assert "data-pick=" in panels.search(marked, SEARCHES[1], "")
    assert "100% of its code" in panels.search(view, SEARCHES[1], "")
    for by, asked in (
        (SEARCHES[0], view),
        (SEARCHES[1], replace(view, key=None)),
        (SEARCHES[2], replace(view, latent=None)),
    ):
        with pytest.raises(UserError):
            panels.search(asked, by, " ")


def test_typed_classes_are_predicted_and_compared(pair: Explorer) -> None:
    """Of a model with a text tower; whatever is typed is shown as text."""
    clip = pair.second
    assert clip is not None and clip.has_text
    plain = desk.first_view(clip, None)
    assert plain.key is not None
    latent = clip.look(plain.key, None)[0].latent
    view = desk.with_new_edit(replace(plain, latent=latent), fires=True)
    typed = desk.with_classes(view, f"a star, a heart,, a star , {HOSTILE}")
    assert typed.classes == ("a star", "a heart", HOSTILE)
    html = Panels(clip).outcome(typed)
    assert "a star" in html and "a heart" in html and "random latents" in html
    assert "<img src=x" not in html
    with pytest.raises(UserError):
        Panels(clip).outcome(desk.with_classes(view, "only one"))


def test_the_sentence_says_what_the_controls_say(explorer: Explorer, view: ViewState) -> None:
    assert view.key is not None
    edits = [desk.one_edit(desk.edited(view)[0], "set", 5.0)]
    outcome = explorer.edit(view.key, edits)
    said = {
        all_beaten: verdict_sentence(
            replace(outcome, exceeds={name: all_beaten for name in outcome.exceeds})
        )
        for all_beaten in (True, False)
    }
    assert "more than every control edit" in said[True]
    assert "no more than control edits" in said[False]
    html = outcome_html(outcome)
    assert all(
        words(name.replace("_", " ")) in html for name in outcome.arms["before"].probabilities
    )
