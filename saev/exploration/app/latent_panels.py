"""The ranking of latents, and one latent opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from saev.exploration.app.markup import (
    bar,
    html_table,
    notice,
    percent,
    picture_uri,
    short_number,
    words,
)
from saev.exploration.app.picture import overlay

if TYPE_CHECKING:
    from PIL.Image import Image

    from saev.attribution.attribute import Attribution
    from saev.attribution.order_curves import InsertionDeletion
    from saev.exploration.answers import RankedLatent, ShownExemplar

STRENGTH = "#31688e"

Column = tuple[str, str]
"""Title, and what it means."""

_LATENT = ("Latent", "A unit of the dictionary; press its number to open it")
_NAME = ("Name", "From the atlas, with the confidence that held-out images give it")
_RATE = ("Fires on", "Share of all patches of the dictionary's images on which it fires")
_RUNG = ("Verdict", "The highest rung that an experiment about it has reached")
_HERE = (
    ("Code", "How strongly it fires: its largest code in the chosen patches"),
    ("Percentile", "Of that code among all its codes where it fires"),
)
_SURPRISE = (
    "Surprise",
    "Natural logarithm of how often it fires here over how often it fires anywhere",
)


def ranking(
    rows: Sequence[RankedLatent], opened: int | None, prefix: str = "", brief: bool = False
) -> str:
    """The latents of some patches as a table, the opened one pressed; without names where none has one.

    ``prefix`` begins what a pressed number tells the server; a brief table leaves out how unusual the
    latents are.
    """
    if not rows:
        return notice(
            "No latent fires on these patches. Mark others, or none for the whole picture."
        )
    top = max((row.activation for row in rows), default=0.0) or 1.0
    columns, extra = _with_names(rows)
    cells = [
        [
            latent_button(row.latent, opened, prefix),
            *extra(row),
            f'<span title="fires on {row.n_patches} of the patches">'
            f"{bar(row.activation / top, STRENGTH)} {short_number(row.activation, 3)}</span>",
            _whole(row.percentile),
            *([] if brief else [short_number(row.surprise), percent(row.rate)]),
        ]
        for row in rows
    ]
    unusual = () if brief else (_SURPRISE, _RATE)
    return html_table((_LATENT, *columns, *_HERE, *unusual), cells)


def found(rows: Sequence[RankedLatent], opened: int | None) -> str:
    """What a search found, best first."""
    if not rows:
        return notice("Nothing was found. Try another word, or search by marked patches.")
    columns, extra = _with_names(rows)
    why = ("Why", "What the search compared, and the score")
    cells = [
        [
            latent_button(row.latent, opened),
            *extra(row),
            f"{words(row.why)} {short_number(row.score, 3)}",
            percent(row.rate),
        ]
        for row in rows
    ]
    return html_table((_LATENT, *columns, why, _RATE), cells)


def _with_names(
    rows: Sequence[RankedLatent],
) -> tuple[list[Column], Callable[[RankedLatent], list[str]]]:
    """Columns for names and verdicts where any row has one, and their cells."""
    named = any(row.name is not None for row in rows)
    judged = any(row.rung for row in rows)
    columns: list[Column] = [*([_NAME] if named else []), *([_RUNG] if judged else [])]
    return columns, lambda row: [_named(row)] * named + [words(row.rung)] * judged


def latent_button(latent: int, opened: int | None, prefix: str = "") -> str:
    """The number of a latent, which opens it."""
    pressed = "true" if latent == opened else "false"
    return (
        f'<button type="button" class="latent" data-pick="{prefix}{latent}" aria-pressed="{pressed}">'
        f"{latent}</button>"
    )


def _whole(value: float) -> str:
    return "–" if value != value else f"{value:.0f}"


def _named(row: RankedLatent) -> str:
    if row.name is None:
        return '<span class="soft">unnamed</span>'
    sure = "" if row.confidence is None else f' <span class="soft">{percent(row.confidence)}</span>'
    return words(row.name) + sure


def opened_latent(
    row: RankedLatent | None, latent: int, image: Image, heat: Float[np.ndarray, "gh gw"]
) -> str:
    """The head of an opened latent: its name and where it fires on the picture."""
    name = row.name if row is not None and row.name else "unnamed"
    n_patches = int((heat > 0).sum())
    where = (
        f"Fires on {n_patches} of {heat.size} patches here; "
        f"largest code {short_number(float(heat.max()), 3)}."
        if n_patches
        else "It does not fire on this picture."
    )
    rung = "" if row is None or not row.rung else f" Verdict: {row.rung}."
    return (
        f"<h3>Latent {latent}: {words(name)}</h3><p>{words(where + rung)}</p>"
        f'<div class="tiles">{overlay(image, heat, "where it fires", f"Where latent {latent} fires")}</div>'
    )


def exemplar_strip(exemplars: Sequence[ShownExemplar]) -> str:
    """Where a latent is strongest among all images; each opens its picture."""
    if not exemplars:
        return notice("No start-up image makes it fire.")
    tiles = "".join(
        f'<figure class="tile small"><button type="button" class="thumb" '
        f'data-pick="image:{words(one.key)}" '
        f'title="Open this picture"><img src="{picture_uri(one.crop, 112)}" '
        f'alt="{words(one.title)}, code {short_number(one.activation, 3)}"></button>'
        f"<figcaption>{words(one.title)} · {short_number(one.activation, 3)}</figcaption></figure>"
        for one in exemplars
    )
    return f"<h4>Where it is strongest</h4><div class='tiles'>{tiles}</div>"


def causes(attribution: Attribution, curves: InsertionDeletion, image: Image) -> str:
    """Which pixels and patches make the latent fire, and what inserting and deleting them shows."""
    latent = attribution.latent
    tiles = overlay(
        image,
        attribution.pixels.numpy(),
        "pixels that raise it",
        f"Pixels that raise latent {latent}",
    ) + overlay(
        image,
        attribution.patches.numpy(),
        "the same by patch",
        f"Patches that raise latent {latent}",
    )
    rows = [
        ("causes first", curves.attribution),
        ("heat-map first", curves.heatmap),
        ("random order", curves.random),
    ]
    cells = [
        [
            title,
            short_number(float(c.insertion_areas.mean())),
            short_number(float(c.deletion_areas.mean())),
        ]
        for title, c in rows
        if c is not None
    ]
    columns = (
        (
            "Order of patches",
            "In which patches come into a blurred picture, or leave the whole one",
        ),
        (
            "Insertion",
            "Mean code as they come in; higher: these patches bring the latent back sooner",
        ),
        ("Deletion", "Mean code as they leave; lower: without these patches it goes sooner"),
    )
    better = curves.better_than_random()
    said = (
        "The map finds causes: both scores beat a random order."
        if all(better)
        else "Do not trust this map: it does not beat a random order on both scores."
    )
    return (
        f"<h4>Where on the input it comes from</h4><div class='tiles'>{tiles}</div>"
        f"{html_table(columns, cells)}{notice(said)}"
    )
