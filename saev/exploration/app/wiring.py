"""Which step follows when a part of the page is used; the page as Gradio's blocks."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gradio as gr

from saev.exploration.app import desk
from saev.exploration.app.layout import PageLayout, slider_for
from saev.exploration.app.steps import PageSteps, Update, or_message, or_message_of_event
from saev.exploration.view_state import ViewState

if TYPE_CHECKING:
    from saev.exploration.app.verdicts import Verdicts
    from saev.exploration.explorer import Explorer

MOST_SESSIONS = 200
"""Browser tabs whose state is kept; the one that was silent longest goes first."""
AT_ONCE = 8
"""Answers of one sort that are worked on at the same time."""
PRIVATE: Any = {"api_visibility": "private"}
QUICK: Any = {"queue": False, "show_progress": "hidden", **PRIVATE}
SLOW: Any = {"show_progress": "minimal", **PRIVATE}
LATEST: Any = {**SLOW, "trigger_mode": "always_last"}


def build_page(explorer: "Explorer", verdicts: "Verdicts") -> gr.Blocks:
    """The page, connected.

    Args:
        explorer: what answers, shared by everybody.
        verdicts: where reports of experiments go.
    """
    with gr.Blocks(
        title="saev explorer", analytics_enabled=False, delete_cache=(600, 600)
    ) as blocks:
        page = PageLayout(explorer)
        _Wiring(blocks, page, PageSteps(explorer, verdicts, page)).connect()
    blocks.state_session_capacity = MOST_SESSIONS
    blocks.queue(default_concurrency_limit=AT_ONCE, max_size=256)
    return blocks


class _Wiring:
    def __init__(self, blocks: gr.Blocks, page: PageLayout, steps: PageSteps) -> None:
        self._blocks, self._page, self._steps = blocks, page, steps
        self._shown = [
            page.view, page.message, page.gallery, page.picture, page.patches, page.sort,
            page.ranking, page.opened, page.to_edit, page.exemplars, page.where, page.classes,
            *(part for slot in page.slots for part in slot.values()),
        ]  # fmt: skip

    def connect(self) -> None:
        page, steps, step = self._page, self._steps, self._step
        started = self._blocks.load(steps.start, outputs=self._shown, **QUICK)
        self._then_compared(self._then_causes(self._then_outcome(started)))
        for told in (
            step(page.gallery.select, steps.choose, event=True),
            step(page.upload.upload, steps.upload, page.upload),
        ):
            self._then_causes(self._then_outcome(self._then_compared(told)))
        for told in (
            step(page.picture.select, steps.mark, event=True),
            step(page.patches.submit, steps.type_patches, page.patches),
            step(page.clear.click, steps.unmark),
        ):
            self._then_outcome(self._then_compared(told))
        for told in (
            step(page.where.input, steps.confine, page.where),
            step(page.classes.submit, steps.name_classes, page.classes),
        ):
            self._then_outcome(told)
        self._then_compared(step(page.sort.input, steps.sort, page.sort))
        for listed in (page.ranking, page.found, page.exemplars, page.compared):
            self._then_causes(
                self._then_compared(step(listed.select, steps.open_latent, event=True))
            )
        added = step(page.to_edit.click, steps.add_edit)
        shown = added.then(lambda: gr.Tabs(selected="edit"), outputs=page.tabs, **QUICK)
        self._then_outcome(shown)
        for number, slot in enumerate(page.slots):
            self._connect_slot(number, slot)
        self._connect_rest()

    def _step(
        self,
        listen: Callable[..., Any],
        fn: Callable[..., Update],
        *given: Any,
        event: bool = False,
    ) -> Any:
        """Runs ``fn(view, …)`` and shows what it returns; a UserError becomes the message."""
        safe = (or_message_of_event if event else or_message)(fn, self._page.message)
        return listen(safe, inputs=[self._page.view, *given], outputs=self._shown, **QUICK)

    def _then_outcome(self, told: Any) -> Any:
        page = self._page
        return told.then(self._steps.predict, inputs=[page.view], outputs=[page.outcome], **LATEST)

    def _then_causes(self, told: Any) -> Any:
        page = self._page
        return told.then(
            self._steps.find_causes, inputs=[page.view], outputs=[page.causes], **LATEST
        )

    def _then_compared(self, told: Any) -> Any:
        """Nothing more to ask for where there is no second dictionary."""
        page = self._page
        if not self._steps.has_second:
            return told
        return told.then(self._steps.compare, inputs=[page.view], outputs=[page.compared], **LATEST)

    def _connect_slot(self, number: int, slot: dict[str, Any]) -> None:
        page, steps = self._page, self._steps

        def change(view: ViewState, kind: str, amount: float) -> Update:
            after = desk.with_edit(view, number, kind, amount)
            return {page.view: after, page.message: "", slot["amount"]: slider_for(kind)}

        def slide(view: ViewState, kind: str, amount: float) -> Update:
            """A slider that is being drawn tells its latest place, and is not moved by the answer."""
            return {page.view: desk.with_edit(view, number, kind, amount), page.message: ""}

        def remove(view: ViewState) -> Update:
            return steps.show_slots(desk.without_edit(view, number))

        given = (slot["kind"], slot["amount"])
        self._then_outcome(self._step(slot["kind"].input, change, *given))
        self._then_outcome(self._step(slot["remove"].click, remove))
        moved = slot["amount"].input(
            or_message(slide, page.message), inputs=[page.view, *given],
            outputs=[page.view, page.message], trigger_mode="always_last", **QUICK,
        )  # fmt: skip
        self._then_outcome(moved)

    def _connect_rest(self) -> None:
        page, steps = self._page, self._steps
        gr.on(
            [page.search.click, page.query.submit], steps.find,
            inputs=[page.view, page.search_by, page.query], outputs=[page.found], **SLOW,
        )  # fmt: skip
        page.make.click(
            steps.make_hypothesis, inputs=[page.view],
            outputs=[page.yaml, page.yaml_file, page.run, page.verdict], **SLOW,
        )  # fmt: skip
        page.run.click(
            steps.run_hypothesis, inputs=[page.yaml], outputs=[page.verdict], concurrency_limit=1,
            show_progress="full", **PRIVATE,
        )  # fmt: skip
        page.keep_tab.select(steps.keep, inputs=[page.view], outputs=[page.kept], **SLOW)
