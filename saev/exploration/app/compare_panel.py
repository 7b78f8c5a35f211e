"""Two dictionaries on one picture: rankings, where the open latents fire, and their strongest images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from saev.exploration.app.latent_panels import (
    exemplar_strip,
    latent_button,
    opened_latent,
    ranking,
)
from saev.exploration.app.markup import html_table, notice, short_number, words

if TYPE_CHECKING:
    from PIL.Image import Image

    from saev.exploration.explorer import Explorer
    from saev.exploration.side_by_side import SideBySide
    from saev.exploration.view_state import ViewState

SECOND = "second:"
"""Begins what a button of the second dictionary says."""


def compared(explorer: Explorer, second: Explorer, view: ViewState, found: SideBySide) -> str:
    """Both columns; on a narrow screen one below the other."""
    assert view.key is not None
    picture = explorer.picture(view.key)
    columns = (
        ("This dictionary", explorer, found.first, view.latent, ""),
        ("The second dictionary", second, found.second, view.second, SECOND),
    )
    parts = []
    for title, one, rows, latent, prefix in columns:
        shown = picture if one is explorer else second.picture(view.key)
        parts.append(
            f"<section><h3>{words(title)}</h3><p class='soft'>{words(_what_it_is(one))}</p>"
            + ranking(rows, latent, prefix, brief=True)
            + _opened(one, view.key, latent, shown)
            + "</section>"
        )
    return f'<div class="pair">{"".join(parts)}</div>{_alike(found, view)}'


def _what_it_is(explorer: Explorer) -> str:
    gh, gw = explorer.grid
    setting = explorer.setting
    return (
        f"{explorer.sae or 'given as an object'}: {explorer.d_sae:,} latents, {setting.backbone.name}, "
        f"layer {setting.layer}, {gh} × {gw} patches"
    )


def _opened(explorer: Explorer, key: str, latent: int | None, picture: Image) -> str:
    if latent is None:
        return notice("Press the number of a latent to see where it fires.")
    row = explorer.rows.at([latent], [float("nan")], [""])[0]
    heat = explorer.heatmap(key, latent)
    return opened_latent(row, latent, picture, heat) + exemplar_strip(explorer.exemplars(latent, 4))


def _alike(found: SideBySide, view: ViewState) -> str:
    if view.latent is None:
        return notice("Open a latent of this dictionary to see which of the second fires like it.")
    if not found.alike:
        return notice(f"Latent {view.latent} does not fire here, so nothing fires like it.")
    rows = [
        [latent_button(one.latent, view.second, SECOND), short_number(one.cosine)]
        for one in found.alike
    ]
    columns = (
        ("Latent", "Of the second dictionary; press its number to open it there"),
        ("Cosine", "Between both heat-maps on this picture; 1: the same patches, equally strongly"),
    )
    return (
        f"<h4>What fires like latent {view.latent} in the second dictionary</h4>"
        + html_table(columns, rows)
        + notice(
            "On one picture much is alike by chance: python -m saev.compare matches latents over many."
        )
    )
