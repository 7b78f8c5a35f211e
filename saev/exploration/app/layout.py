"""The page's parts, laid out; nothing happens yet."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from saev.exploration.app import desk
from saev.exploration.app.panels import SEARCHES
from saev.exploration.view_state import SORTS, ViewState

if TYPE_CHECKING:
    from saev.exploration.explorer import Explorer

HERE = Path(__file__).parent
CSS = (HERE / "explorer.css").read_text(encoding="utf-8")
GRID_JS = (HERE / "patch_grid.js").read_text(encoding="utf-8")
PICK_JS = (HERE / "pick.js").read_text(encoding="utf-8")
STATE_SECONDS = 3600


def plain_theme() -> gr.themes.Base:
    """Gradio's plain look with the fonts of the machine: none is fetched."""
    sans = ["system-ui", "sans-serif"]
    return gr.themes.Default(
        primary_hue="blue", neutral_hue="slate", font=sans, font_mono=["ui-monospace", "monospace"]
    )


async def uploaded_only(url_or_file_path: str | Path | None) -> str | None:
    """The path of a file that was uploaded; a request may name any file or address, and Gradio takes it.

    Raises:
        ValueError: it lies outside the folder of uploads.
    """
    if url_or_file_path is None:
        return None
    folder, file = Path(os.environ["GRADIO_TEMP_DIR"]).resolve(), Path(url_or_file_path).resolve()
    if not file.is_relative_to(folder) or not file.is_file():
        raise ValueError("this file was not uploaded")
    return str(file)


class PageLayout:
    """Every part of the page, as an attribute; to be made within ``gr.Blocks``.

    Args:
        explorer: says how large the grid is and how many latents there are.
    """

    def __init__(self, explorer: "Explorer") -> None:
        self._explorer = explorer
        self.view = gr.State(ViewState(), time_to_live=STATE_SECONDS)
        gr.HTML(self._headline(), js_on_load=None)
        self.message = gr.HTML("", js_on_load=None, elem_id="message")
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                self._lay_picture()
            with gr.Column(scale=3, min_width=320), gr.Tabs(elem_id="tabs") as self.tabs:
                self._lay_look()
                self._lay_edit()
                self._lay_compare()
                self._lay_search()
                self._lay_test()
                self._lay_keep()

    def _headline(self) -> str:
        gh, gw = self._explorer.grid
        return (
            "<h1>What does the model see, and does it matter?</h1>"
            f'<p class="soft">{self._explorer.d_sae:,} latents of a sparse autoencoder, '
            f"read on {gh} × {gw} patches of each picture. Choose a picture, click on it, open a latent, "
            "then change it and watch the prediction next to control edits of the same size.</p>"
        )

    def _lay_picture(self) -> None:
        gr.HTML("<h2>1 · Choose a picture</h2>", js_on_load=None)
        self.gallery = gr.HTML("", js_on_load=PICK_JS, elem_id="gallery")
        self.upload = gr.UploadButton(
            "Upload your own (up to 20 MB)", file_types=["image"], type="filepath", size="sm"
        )
        self.upload.async_move_resource_to_block_cache = uploaded_only
        gr.HTML(
            '<h2>2 · Click or drag on it</h2><p class="soft">A click marks one patch, a drag several; '
            "Shift adds. Arrow keys and space do the same.</p>",
            js_on_load=None,
        )
        self.picture = gr.HTML("", js_on_load=GRID_JS, elem_id="picture")
        with gr.Row():
            self.patches = gr.Textbox(
                label="Marked patches", placeholder="none: the whole picture; or type 3, 7-9",
                max_lines=1, scale=4, min_width=160, elem_id="patches", max_length=10_000,
            )  # fmt: skip
            self.clear = gr.Button("Whole picture", size="sm", scale=1, min_width=90)

    def _lay_look(self) -> None:
        with gr.Tab("Look", id="look"), gr.Row():
            with gr.Column(scale=3, min_width=300):
                self.sort = gr.Radio(
                    [("strongest", "activation"), ("most surprising", "surprise"),
                     ("highest percentile", "percentile")],
                    value=SORTS[0], label="Order", elem_id="sort",
                )  # fmt: skip
                self.ranking = gr.HTML("", js_on_load=PICK_JS, elem_id="ranking")
            with gr.Column(scale=2, min_width=260):
                self.opened = gr.HTML("", js_on_load=None, elem_id="opened")
                self.to_edit = gr.Button(
                    "Edit this latent", variant="primary", interactive=False, elem_id="to-edit"
                )
                self.causes = gr.HTML("", js_on_load=None, elem_id="causes")
                self.exemplars = gr.HTML("", js_on_load=PICK_JS, elem_id="exemplars")

    def _lay_edit(self) -> None:
        with gr.Tab("Edit", id="edit"):
            self.slots = [self._lay_slot(number) for number in range(desk.MOST_SLOTS)]
            self.where = gr.Radio(
                [("everywhere", "all"), ("only on the marked patches", "patches")],
                value="all", label="Where", elem_id="where",
            )  # fmt: skip
            has_text = self._explorer.setting.backbone.has_text
            self.classes = gr.Textbox(
                label="Class names of your own, with commas between them (empty: the model's)",
                visible=has_text, max_lines=2, max_length=4000, elem_id="classes",
            )  # fmt: skip
            self.outcome = gr.HTML("", js_on_load=None, elem_id="outcome")

    def _lay_slot(self, number: int) -> dict[str, Any]:
        with gr.Group(visible=False, elem_id=f"slot-{number}") as group, gr.Row():
            kind = gr.Radio(
                [(text, kind) for kind, text in desk.KINDS.items()],
                value="set", label=f"Latent {number}", scale=3, min_width=260,
            )  # fmt: skip
            amount = gr.Slider(
                -desk.LARGEST_AMOUNT, desk.LARGEST_AMOUNT, 0.0, step=0.1, scale=3, min_width=200,
                label="Amount", elem_id=f"amount-{number}", buttons=[],
            )  # fmt: skip
            remove = gr.Button("Remove", size="sm", scale=1, min_width=80)
        return {"group": group, "kind": kind, "amount": amount, "remove": remove}

    def _lay_compare(self) -> None:
        with gr.Tab("Compare", id="compare", visible=self._explorer.second is not None):
            self.compared = gr.HTML("", js_on_load=PICK_JS, elem_id="compared")

    def _lay_search(self) -> None:
        with gr.Tab("Search", id="search"):
            self.search_by = gr.Radio(list(SEARCHES), value=SEARCHES[0], label="Search by")
            with gr.Row():
                self.query = gr.Textbox(
                    label="Word",
                    max_lines=1,
                    max_length=200,
                    scale=4,
                    min_width=180,
                    elem_id="query",
                )
                self.search = gr.Button("Search", variant="primary", scale=1, min_width=90)
            self.found = gr.HTML("", js_on_load=PICK_JS, elem_id="found")

    def _lay_test(self) -> None:
        with gr.Tab("Test", id="test"):
            gr.HTML(
                "<p>One picture is no evidence. A hypothesis applies your edit to held-out pictures and "
                "compares it with control edits by a registered test.</p>",
                js_on_load=None,
            )
            self.make = gr.Button("Make this a hypothesis", variant="primary", elem_id="make")
            self.yaml = gr.Textbox(
                label="hypothesis.yaml (you may change it)", lines=8, max_lines=24, visible=False,
                max_length=20_000, elem_id="yaml",
            )  # fmt: skip
            self.yaml_file = gr.HTML("", js_on_load=None, elem_id="yaml-file")
            self.run = gr.Button("Run it", visible=False, elem_id="run")
            self.verdict = gr.HTML("", js_on_load=None, elem_id="verdict", min_height=60)

    def _lay_keep(self) -> None:
        with gr.Tab("Keep", id="keep") as self.keep_tab:
            self.kept = gr.HTML("", js_on_load=PICK_JS, elem_id="kept")


def slider_for(kind: str, value: float | None = None) -> Any:
    """The slider of an edit of ``kind``, moved to ``value`` where one is given."""
    label = {"set": "× its largest code (0: off)", "scale": "× what it has (1: unchanged)"}
    given: Any = {} if value is None else {"value": value}
    return gr.Slider(label=label.get(kind, ""), visible=kind != "ablate", **given)
