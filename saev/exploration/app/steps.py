"""What happens when a part of the page is used: from one view state to the next, and what to show.

A step returns the parts that change; Gradio leaves the others as they are.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from saev.errors import UserError
from saev.exploration.app import desk
from saev.exploration.app.compare_panel import SECOND
from saev.exploration.app.layout import PageLayout, slider_for
from saev.exploration.app.markup import notice
from saev.exploration.app.panels import Panels
from saev.exploration.app.picture import patches_of, patches_text
from saev.exploration.view_state import ViewState

if TYPE_CHECKING:
    from saev.exploration.app.verdicts import Verdicts
    from saev.exploration.explorer import Explorer

Update = dict[Any, Any]


class PageSteps:
    """The steps of everybody; what a person has on screen comes in and goes out as a view state.

    Args:
        explorer: what answers.
        verdicts: where reports of experiments go.
        page: the parts that are shown.
    """

    def __init__(self, explorer: "Explorer", verdicts: "Verdicts", page: PageLayout) -> None:
        self._explorer, self._verdicts, self._page = explorer, verdicts, page
        self._panels = Panels(explorer)
        self._n_patches = explorer.grid[0] * explorer.grid[1]

    @property
    def has_second(self) -> bool:
        """Whether another dictionary is laid beside this one."""
        return self._explorer.second is not None

    def start(self, request: gr.Request) -> Update:
        words_said = ""
        try:
            view = desk.first_view(self._explorer, dict(request.query_params).get("view"))
        except UserError as error:
            view, words_said = desk.first_view(self._explorer, None), notice(str(error), "error")
        return {**self._everything(view), self._page.message: words_said}

    def _everything(self, view: ViewState) -> Update:
        return {
            **self._of_picture(view),
            **self._of_latent(view),
            **self.show_slots(view),
            self._page.sort: view.sort,
            self._page.where: view.where,
            self._page.classes: ", ".join(view.classes),
        }

    def _of_picture(self, view: ViewState) -> Update:
        return {
            self._page.view: view,
            self._page.message: "",
            self._page.gallery: self._panels.gallery(view),
            self._page.picture: self._panels.picture(view),
            self._page.where: view.where,
            **self._of_patches(view),
        }

    def _of_patches(self, view: ViewState) -> Update:
        return {
            self._page.view: view,
            self._page.message: "",
            self._page.patches: patches_text(view.patches),
            self._page.ranking: self._panels.ranking(view),
            self._page.where: view.where,
        }

    def _of_latent(self, view: ViewState) -> Update:
        return {
            self._page.view: view,
            self._page.message: "",
            self._page.picture: self._panels.picture(view),
            self._page.opened: self._panels.opened(view),
            self._page.exemplars: self._panels.exemplars(view),
            self._page.to_edit: gr.Button(interactive=view.latent is not None),
        }

    def show_slots(self, view: ViewState) -> Update:
        update: Update = {self._page.view: view, self._page.message: ""}
        for number, slot in enumerate(self._page.slots):
            used = number < len(view.edits)
            update[slot["group"]] = gr.Group(visible=used)
            if used:
                edit = view.edits[number]
                update[slot["kind"]] = gr.Radio(
                    value=edit["kind"], label=f"Latent {desk.edited(view)[number]}"
                )
                update[slot["amount"]] = slider_for(edit["kind"], desk.amount_of(edit))
        return update

    def choose(self, view: ViewState, event: gr.EventData) -> Update:
        return self._show_image(view, _picked(event))

    def _show_image(self, view: ViewState, key: str) -> Update:
        self._explorer.picture(key)
        after = desk.with_image(view, key)
        return {**self._of_picture(after), **self._of_latent(after)}

    def upload(self, view: ViewState, path: str | None) -> Update:
        if path is None:
            return {self._page.message: ""}
        file = Path(path)
        try:
            data = file.read_bytes()
        finally:
            file.unlink(missing_ok=True)
        return self._show_image(view, self._explorer.add_image(data))

    def mark(self, view: ViewState, event: gr.EventData) -> Update:
        told = event._data.get("patches", []) if isinstance(event._data, dict) else []
        marked = [p for p in told if isinstance(p, int) and 0 <= p < self._n_patches]
        return self._of_patches(desk.with_patches(view, marked))

    def type_patches(self, view: ViewState, text: str) -> Update:
        return self._marked(view, patches_of(text or "", self._n_patches))

    def unmark(self, view: ViewState) -> Update:
        return self._marked(view, ())

    def _marked(self, view: ViewState, patches: Sequence[int]) -> Update:
        after = desk.with_patches(view, patches)
        return {**self._of_patches(after), self._page.picture: self._panels.picture(after)}

    def sort(self, view: ViewState, sort: str) -> Update:
        after = replace(view, sort=sort)
        return {self._page.view: after, self._page.ranking: self._panels.ranking(after)}

    def open_latent(self, view: ViewState, event: gr.EventData) -> Update:
        picked = _picked(event)
        if picked.startswith("image:"):
            return self._show_image(view, picked.removeprefix("image:"))
        if picked.startswith(SECOND):
            return self._open_second(view, picked.removeprefix(SECOND))
        if not picked.isdecimal() or int(picked) >= self._explorer.d_sae:
            raise UserError(f"there is no latent {picked[:20]}")
        return self._of_latent(replace(view, latent=int(picked)))

    def _open_second(self, view: ViewState, picked: str) -> Update:
        second = self._explorer.second
        if second is None or not picked.isdecimal() or int(picked) >= second.d_sae:
            raise UserError(f"the second dictionary has no latent {picked[:20]}")
        return {self._page.view: replace(view, second=int(picked)), self._page.message: ""}

    def compare(self, view: ViewState) -> str:
        try:
            return self._panels.compared(view)
        except UserError as error:
            return notice(str(error), "error")

    def add_edit(self, view: ViewState) -> Update:
        return self.show_slots(desk.with_new_edit(view, self._panels.fires(view)))

    def confine(self, view: ViewState, where: str) -> Update:
        try:
            return {self._page.view: desk.with_where(view, where), self._page.message: ""}
        except UserError as error:
            return {self._page.where: view.where, self._page.message: notice(str(error), "error")}

    def name_classes(self, view: ViewState, text: str) -> Update:
        return {self._page.view: desk.with_classes(view, text or ""), self._page.message: ""}

    def find_causes(self, view: ViewState) -> str:
        try:
            return self._panels.causes(view)
        except UserError as error:
            return notice(str(error))

    def predict(self, view: ViewState) -> Update:
        try:
            return {self._page.outcome: self._panels.outcome(view)}
        except UserError as error:
            return {self._page.outcome: notice(str(error), "error")}

    def find(self, view: ViewState, by: str, text: str) -> str:
        try:
            return self._panels.search(view, by, text or "")
        except UserError as error:
            return notice(str(error), "error")

    def make_hypothesis(self, view: ViewState) -> Update:
        try:
            text, link = self._panels.hypothesis(view)
        except UserError as error:
            return {self._page.verdict: notice(str(error), "error")}
        return {
            self._page.yaml: gr.Textbox(value=text, visible=True),
            self._page.yaml_file: link,
            self._page.run: gr.Button(visible=True),
            self._page.verdict: "",
        }

    def run_hypothesis(self, text: str, progress: gr.Progress = gr.Progress()) -> str:  # noqa: B008
        def show(share: float, what: str) -> None:
            progress(share, desc=what)

        try:
            page = self._explorer.run_hypothesis(text or "", self._verdicts.new_folder(), show)
        except UserError as error:
            return notice(str(error), "error")
        return self._panels.verdict(self._verdicts.add(page))

    def keep(self, view: ViewState) -> str:
        try:
            return self._panels.keep(view)
        except UserError as error:
            return notice(str(error), "error")


def _picked(event: gr.EventData) -> str:
    """What the script ``pick.js`` says was pressed."""
    told = event._data.get("pick", "") if isinstance(event._data, dict) else ""
    return str(told)[:200]


def or_message(fn: Callable[..., Update], message: Any) -> Callable[..., Update]:
    """``fn(view, …)`` such that a UserError becomes the sentence above the page."""

    def run(view: ViewState, *given: Any) -> Update:
        try:
            return fn(view, *given)
        except UserError as error:
            return {message: notice(str(error), "error")}

    return run


def or_message_of_event(fn: Callable[..., Update], message: Any) -> Callable[..., Update]:
    """The same for ``fn(view, event)``."""
    inner = or_message(fn, message)

    def run(view: ViewState, event: gr.EventData) -> Update:
        return inner(view, event)

    return run
