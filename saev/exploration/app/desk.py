"""Steps a person takes, each from one view state to the next; nothing is kept between them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from saev.errors import UserError
from saev.exploration.view_state import ViewState

if TYPE_CHECKING:
    from saev.exploration.explorer import Explorer

MOST_SLOTS = 4
"""Edits that the page has sliders for."""
LARGEST_AMOUNT = 10.0
KINDS = {
    "set": "Set to a multiple of its largest code",
    "scale": "Multiply what it has here",
    "ablate": "Switch off",
}


def first_view(explorer: "Explorer", link: str | None) -> ViewState:
    """What a link says, or the first picture of the gallery.

    Raises:
        UserError: the link is damaged, or names what this dictionary does not have.
    """
    plain = ViewState(key=explorer.gallery[0].key if explorer.gallery else None)
    if not link:
        return plain
    view = ViewState.from_link(link)
    if view.key is not None:
        explorer.picture(view.key)
    gh, gw = explorer.grid
    if any(p >= gh * gw for p in view.patches):
        raise UserError(f"the link marks patches beyond {gh} × {gw}: it is of another dictionary")
    latents = [one for edit in view.edits for one in edit["latents"]]
    if max([view.latent or 0, *latents]) >= explorer.d_sae:
        raise UserError(
            f"the link names a latent beyond {explorer.d_sae - 1}: it is of another dictionary"
        )
    known = 0 if explorer.second is None else explorer.second.d_sae
    if view.second is not None and view.second >= known:
        raise UserError(
            "the link names a latent of a second dictionary, which is not here: start with also=DIR"
        )
    if any(len(edit["latents"]) != 1 or edit["kind"] not in KINDS for edit in view.edits):
        raise UserError(
            "the link holds edits that this page has no sliders for; run it from Python"
        )
    return replace(view, key=view.key or plain.key, edits=view.edits[:MOST_SLOTS])


def with_image(view: ViewState, key: str) -> ViewState:
    """Another picture: marks are gone, latent and edits stay."""
    return replace(view, key=key, patches=(), where="all")


def with_patches(view: ViewState, patches: Sequence[int]) -> ViewState:
    """Other marks; without any, edits are everywhere."""
    marked = tuple(sorted({int(p) for p in patches}))
    return replace(view, patches=marked, where=view.where if marked else "all")


def one_edit(latent: int, kind: str, amount: float) -> dict[str, Any]:
    """An edit as the page's sliders give it: ``kind`` of ``KINDS``, ``amount`` a multiple."""
    edit: dict[str, Any] = {"kind": kind, "latents": [latent], "where": "all"}
    if kind == "set":
        edit |= {"scale": float(amount), "unit": "largest"}
    elif kind == "scale":
        edit["factor"] = float(amount)
    return edit


def amount_of(edit: Any) -> float:
    """Where the slider of an edit stands."""
    return float(edit.get("scale", edit.get("factor", 0.0)))


def with_new_edit(view: ViewState, fires: bool) -> ViewState:
    """The opened latent gets a slider: off where it fires here, else at its largest code.

    Raises:
        UserError: no latent is open, it has a slider already, or all are taken.
    """
    if view.latent is None:
        raise UserError("open a latent first: press its number in the table")
    if view.latent in edited(view):
        raise UserError(f"latent {view.latent} has a slider already")
    if len(view.edits) >= MOST_SLOTS:
        raise UserError(f"there are {MOST_SLOTS} sliders and all are taken: remove one")
    edit = one_edit(view.latent, "set", 0.0 if fires else 1.0)
    return replace(view, edits=(*view.edits, edit))


def with_edit(view: ViewState, slot: int, kind: str, amount: float) -> ViewState:
    """The edit of one slider changed; a slider without an edit changes nothing."""
    if not 0 <= slot < len(view.edits):
        return view
    bounded = min(max(float(amount), -LARGEST_AMOUNT), LARGEST_AMOUNT)
    edits = list(view.edits)
    edits[slot] = one_edit(edited(view)[slot], kind, bounded)
    return replace(view, edits=tuple(edits))


def without_edit(view: ViewState, slot: int) -> ViewState:
    """One slider less."""
    return replace(view, edits=tuple(e for i, e in enumerate(view.edits) if i != slot))


def with_where(view: ViewState, where: str) -> ViewState:
    """Edits everywhere ("all"), or on the marked patches ("patches").

    Raises:
        UserError: none is marked.
    """
    return replace(view, where=where)


def with_classes(view: ViewState, text: str) -> ViewState:
    """Class names typed for a model with a text tower, with commas between them; none: the head's."""
    names = dict.fromkeys(name.strip() for name in text.split(",") if name.strip())
    return replace(view, classes=tuple(names), target=None)


def edited(view: ViewState) -> list[int]:
    """The latent of every slider."""
    return [int(edit["latents"][0]) for edit in view.edits]
