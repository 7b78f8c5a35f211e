"""What the page shows of a view state; one per server, shared by everybody, and it keeps nothing."""

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from saev.errors import UserError
from saev.exploration.app.compare_panel import compared
from saev.exploration.app.exports import edited_outcome, state_png
from saev.exploration.app.latent_panels import (
    causes,
    exemplar_strip,
    found,
    opened_latent,
    ranking,
)
from saev.exploration.app.markup import download, notice, words
from saev.exploration.app.outcome_panel import no_edit_yet, outcome_html
from saev.exploration.app.picture import gallery_strip, patch_picture
from saev.exploration.side_by_side import side_by_side

if TYPE_CHECKING:
    from saev.exploration.explorer import Explorer
    from saev.exploration.view_state import ViewState

N_RANKED = 20
SEARCHES = (
    "Name or concept",
    "Marked patches, or the whole picture",
    "Like the opened latent",
)


class Panels:
    """HTML of each part of the page.

    Args:
        explorer: what answers.
    """

    def __init__(self, explorer: "Explorer") -> None:
        self._explorer = explorer

    def gallery(self, view: "ViewState") -> str:
        return gallery_strip(self._explorer.gallery, view.key or "")

    def picture(self, view: "ViewState") -> str:
        if view.key is None:
            return notice("There are no held-out images: upload a picture.")
        heat = self._heat(view)
        legend = (
            "Brighter: the open latent fires more strongly there."
            if heat is not None and (heat > 0).any()
            else ""
        )
        image = self._explorer.picture(view.key)
        return patch_picture(image, self._explorer.grid, view.patches, heat, legend)

    def _heat(self, view: "ViewState") -> Float[np.ndarray, "gh gw"] | None:
        if view.key is None or view.latent is None:
            return None
        return self._explorer.heatmap(view.key, view.latent)

    def fires(self, view: "ViewState") -> bool:
        """Whether the open latent fires on the picture."""
        heat = self._heat(view)
        return heat is not None and bool((heat > 0).any())

    def ranking(self, view: "ViewState") -> str:
        if view.key is None:
            return ""
        rows = self._explorer.look(view.key, view.patches or None, n=N_RANKED, sort=view.sort)
        n = len(view.patches)
        where = f"{n} marked patch{'es' if n > 1 else ''}" if n else "the whole picture"
        return f"<h3>What fires on {where}</h3>" + ranking(rows, view.latent)

    def opened(self, view: "ViewState") -> str:
        heat = self._heat(view)
        if view.latent is None or view.key is None or heat is None:
            return notice("Press the number of a latent to see where it fires and what it means.")
        row = self._explorer.rows.at([view.latent], [float("nan")], [""])[0]
        return opened_latent(row, view.latent, self._explorer.picture(view.key), heat)

    def exemplars(self, view: "ViewState") -> str:
        return "" if view.latent is None else exemplar_strip(self._explorer.exemplars(view.latent))

    def causes(self, view: "ViewState") -> str:
        if view.latent is None or view.key is None:
            return ""
        if not self.fires(view):
            return notice(
                "Where it does not fire, nothing causes it: choose one of the pictures below."
            )
        attribution = self._explorer.attribution(view.key, view.latent)
        curves = self._explorer.insertion_deletion(view.key, view.latent)
        return causes(attribution, curves, self._explorer.picture(view.key))

    def outcome(self, view: "ViewState") -> str:
        if not view.edits or view.key is None:
            return no_edit_yet()
        return outcome_html(edited_outcome(self._explorer, view))

    def compared(self, view: "ViewState") -> str:
        """Both dictionaries on the picture; nothing without a second one."""
        second = self._explorer.second
        if second is None or view.key is None:
            return ""
        found = side_by_side(
            self._explorer, second, view.key, view.patches, view.latent, sort=view.sort
        )
        return compared(self._explorer, second, view, found)

    def search(self, view: "ViewState", by: str, text: str) -> str:
        """Raises UserError where the search lacks what it starts from."""
        if by == SEARCHES[0]:
            if not text.strip():
                raise UserError("type a word that the name or concept should hold")
            rows = self._explorer.search(text=text.strip()[:200])
        elif by == SEARCHES[1]:
            if view.key is None:
                raise UserError("choose a picture first, or upload one")
            gh, gw = self._explorer.grid
            rows = self._explorer.search(patches=(view.key, view.patches or range(gh * gw)))
        else:
            if view.latent is None:
                raise UserError("open a latent first: press its number in a table")
            rows = self._explorer.search(like=view.latent)
        return found(rows, view.latent)

    def hypothesis(self, view: "ViewState") -> tuple[str, str]:
        """The YAML text, and a link that saves it."""
        text = self._explorer.hypothesis(view)
        return text, download("hypothesis.yaml", text, "text/yaml", "Download hypothesis.yaml")

    def keep(self, view: "ViewState") -> str:
        """A link, a picture, JSON and Python of everything on screen."""
        link = f"?view={view.to_link()}"
        parts = [
            f'<p><a href="{link}">A link to this view</a> '
            f'<button type="button" class="copy" data-copy="{link}">Copy the link</button></p>',
            "<p>",
            download("explorer.json", view.to_json(), "application/json", "Download JSON"),
        ]
        if view.key is not None:
            png = state_png(self._explorer, view)
            parts.append(download("explorer.png", png, "image/png", "Download PNG"))
        parts.append("</p>")
        if view.edits:
            script = view.to_python(self._explorer)
            saved = download("explorer.py", script, "text/x-python", "Download explorer.py")
            parts.append(f"<h4>The same from Python</h4><p>{saved}</p><pre>{words(script)}</pre>")
        else:
            parts.append(notice("With an edit there is also a Python script that repeats it."))
        return "".join(parts)

    def verdict(self, address: str) -> str:
        """A finished report: its address, and the report itself below."""
        name = words(PurePosixPath(address).name)
        return (
            f'<p class="good" role="status">The experiment is done. '
            f'<a href="{words(address)}" target="_blank" rel="noopener">Open the verdict</a></p>'
            f'<iframe class="verdict" src="{words(address)}" title="Verdict, {name}"></iframe>'
        )
