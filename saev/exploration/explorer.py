"""The explorer without its page: pictures, latents, edits next to their controls, searches.

Suffixes: p tokens, s latents, gh gw grid of patches.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import nn

from datamodules.images import BrokenImage, ImageSource
from datamodules.progress import progress_bars
from saev.atlas.atlas import Atlas
from saev.attribution.attribute import Attribution
from saev.attribution.order_curves import InsertionDeletion
from saev.backbones import Backbone
from saev.errors import UserError
from saev.exploration.answers import EditOutcome, GalleryImage, RankedLatent, ShownExemplar
from saev.exploration.causes import Causes
from saev.exploration.checked_edits import Limits
from saev.exploration.crops import crop_around
from saev.exploration.edit_arms import EditArms
from saev.exploration.edit_run import run_edit
from saev.exploration.hypothesis_run import tested_hypothesis
from saev.exploration.hypothesis_text import command_words, hypothesis_text
from saev.exploration.known_verdicts import read_rungs, rungs_in_words
from saev.exploration.latent_rows import MOST_ROWS, LatentRows
from saev.exploration.latent_search import LatentSearch
from saev.exploration.model_answers import ModelAnswers
from saev.exploration.own_readout import NO_HEAD
from saev.exploration.own_setting import open_atlas, open_setting
from saev.exploration.pictures import Pictures
from saev.exploration.python_script import Scripted, python_script
from saev.exploration.start_up import StartUp, read_start_up, start_up_items
from saev.exploration.view_state import ViewState
from saev.intervention.readout import Readout
from saev.intervention.setting import Setting
from saev.intervention.splits import in_turn
from saev.sae import SparseAutoencoder

N_GALLERY = 24
THUMBNAIL = 96


class Explorer:
    """Answers everything that a screen asks for; safe for many threads.

    State is in arguments and returns, and one lock is around the model: no answer depends on what others
    asked, but for the rung of a latent that somebody has tested. See :meth:`open`.
    """

    def __init__(
        self, setting: Setting, start: StartUp, readout: Readout | None, atlas: Atlas | None = None, *,
        sae: str | None = None, head: str | None = None, rungs: Mapping[int, str] | None = None,
    ) -> None:  # fmt: skip
        self.setting, self.start, self.readout = setting, start, readout
        self.sae, self.head = sae, head
        self.grid: tuple[int, int] = setting.backbone.grid
        self.d_sae = setting.sae.cfg.d_sae
        self.tokens = setting.edited_tokens
        self.rungs: dict[int, str] = dict(rungs or {})
        """Highest rung of latents that were tested, earlier or here, whoever asked."""
        self.second: Explorer | None = None
        """Another dictionary, that sees the same pictures."""
        self.pictures = Pictures(setting.backbone, setting.source)
        self.limits = Limits(self.grid, self.d_sae, setting.reads_patches, self.tokens, start)
        self.answers = ModelAnswers(setting, self.tokens, self.pictures, readout)
        self.causes = Causes(setting, self.answers)
        self.rows = LatentRows(start, atlas, self.rungs)
        self.searches = LatentSearch(self.rows, self.answers)
        self.arms = EditArms(setting, start, self.tokens)
        self.seen: frozenset[str] = frozenset()
        """Ids of the gallery's images: a hypothesis is not tested on them."""
        self.gallery: list[GalleryImage] = self._gallery()
        self._testing = threading.Lock()
        self._start_keys = self.pictures.know(start.items)

    @classmethod
    def open(
        cls, sae: str | Path | SparseAutoencoder, head: str | Path | None = None,
        atlas: str | Path | None = None, images: ImageSource | str | Path | None = None, *,
        backbone: Backbone | nn.Module | str | None = None, n_images: int = 200, seed: int = 0,
        device: str | torch.device | None = None, verdicts: str | Path | None = None,
        also: str | Path | SparseAutoencoder | None = None,
    ) -> Explorer:  # fmt: skip
        """An explorer of one dictionary.

        Args:
            sae: a dictionary, its folder or its id on the hub.
            head: folder of a trained head, or "classifier", "zero_shot", "attributes"; None: what the
                model comes with, if anything.
            atlas: folder of a describe run, for names and search; None: none.
            images: a source, its name in ``conf/images``, or a folder; None: the images that the head,
                or the dictionary, was trained on.
            backbone: the model it was trained on; None: the one it names.
            n_images: training images read at the start, for largest codes, rates and controls.
            device: None: a GPU where there is one.
            verdicts: folder with reports of ``saev.intervene``, for the rungs of latents; None: none.
            also: a second dictionary to lay beside this one on the same images: of the same model or of
                another, but of the same where ``backbone`` is given.

        Raises:
            UserError: nothing there, or things that do not belong together.
        """
        setting, readout = open_setting(sae, head, images, backbone, n_images, seed, device)
        found = open_atlas(atlas, setting.sae.cfg.d_sae)
        rungs = read_rungs(verdicts, setting.sae)
        second = None
        if also is not None:
            second = cls.open(
                also, images=setting.source, backbone=copy.deepcopy(backbone), n_images=n_images,
                seed=seed, device=device,
            )  # fmt: skip
        with progress_bars(False):
            start = read_start_up(setting, start_up_items(setting, n_images))
        explorer = cls(
            setting, start, readout, found, sae=None if isinstance(sae, SparseAutoencoder) else str(sae),
            head=None if head is None else str(head), rungs=rungs,
        )  # fmt: skip
        if second is not None:
            explorer.lay_beside(second)
        return explorer

    def lay_beside(self, second: Explorer) -> None:
        """Both dictionaries see every picture that either knows from now on.

        Raises:
            UserError: they were opened on other images.
        """
        if self.setting.source.spec() != second.setting.source.spec():
            raise UserError("the dictionaries were opened on different images: give both the same")
        self.second = second
        mine, theirs = list(self.pictures.items.values()), list(second.pictures.items.values())
        self.pictures.know(theirs)
        second.pictures.know(mine)

    @property
    def has_text(self) -> bool:
        """Whether classes can be typed and latents searched by any text."""
        return self.setting.backbone.has_text

    @property
    def concepts(self) -> list[str]:
        """Classes of the head that an edit or a search can ask about."""
        if self.readout is None:
            return []
        backgrounds = self.readout.groups.backgrounds
        return [name for c, name in enumerate(self.readout.concepts) if c not in backgrounds]

    # --- pictures -----------------------------------------------------------------------------

    def add_image(self, data: bytes) -> str:
        """Checks an upload and keeps it in memory, never on disk; its key.

        Raises:
            UserError: more than 20 MB or 50 million pixels, or no image that can be decoded.
        """
        key = self.pictures.upload(data)
        if self.second is not None:
            self.second.pictures.upload(data)
        return key

    def picture(self, key: str) -> Image.Image:
        """An image as the model sees it, after resizing and cropping; UserError for an unknown key."""
        return self.pictures.picture(key)

    def title(self, key: str) -> str:
        """The class of an image where it has one, else its name; "uploaded" for an upload."""
        return self.pictures.title(key)

    def _gallery(self) -> list[GalleryImage]:
        """A few held-out images; most are left for tests."""
        held_out = self.setting.source.split("heldout") or self.setting.source.items
        items = in_turn(held_out)[: min(N_GALLERY, max(1, len(held_out) // 4))]
        self.seen = frozenset(item.image_id for item in items)
        shown = []
        for key in self.pictures.know(items):
            try:
                picture = self.picture(key)
            except BrokenImage:
                continue
            picture.thumbnail((THUMBNAIL, THUMBNAIL))
            shown.append(GalleryImage(key, self.title(key), picture))
        return shown

    # --- what fires -----------------------------------------------------------------------------

    def _codes(self, key: str) -> Float[np.ndarray, "p s"]:
        one = self.answers.encoded(key)
        return (one.z * one.normal[..., None])[0].float().cpu().numpy()

    def look(
        self, key: str, patches: Sequence[int] | None, n: int = 20, sort: str = "activation"
    ) -> list[RankedLatent]:
        """The latents that fire in some patches of an image, best first; None: in all of it.

        Raises:
            UserError: an unknown image, order or patch.
        """
        chosen = self.limits.chosen(patches)
        return self.rows.look(self._codes(key), chosen, n, sort)

    def heatmap(self, key: str, latent: int) -> Float[np.ndarray, "gh gw"]:
        """The latent's code on every patch; 0 where a patch is not read.

        Raises:
            UserError: an unknown image or latent.
        """
        codes = self._codes(key)[:, self.limits.latent(latent)]
        patches = self.tokens.patches.cpu().numpy()
        found = np.zeros(self.grid[0] * self.grid[1], np.float32)
        found[patches[patches >= 0]] = codes[patches >= 0]
        return found.reshape(self.grid)

    def attribution(
        self, key: str, latent: int, method: str = "integrated_gradients"
    ) -> Attribution:
        """Where on the input the latent's code on an image comes from; seconds, on a model of its own.

        Raises:
            UserError: an unknown image, latent or method; a latent that does not fire on the image.
        """
        return self.causes.of(key, self.limits.latent(latent), method)

    def insertion_deletion(
        self, key: str, latent: int, method: str = "integrated_gradients"
    ) -> InsertionDeletion:
        """How well :meth:`attribution` and the heat-map find what matters, next to random orders.

        Raises:
            UserError: as for the attribution.
        """
        return self.causes.curves_of(key, self.limits.latent(latent), method)

    def exemplars(self, latent: int, n: int = 8) -> list[ShownExemplar]:
        """The start-up images on which a latent is strongest, strongest first; at most 16."""
        shown = []
        for one in self.start.exemplars.of(self.limits.latent(latent))[: max(n, 0)]:
            key = self._start_keys[one.image]
            crop = crop_around(self.picture(key), one.patch, self.grid)
            title = self.pictures.title(key)
            shown.append(ShownExemplar(key, crop, one.value, one.patch, title))
        return shown

    # --- edits ------------------------------------------------------------------------------------

    def edit(
        self, key: str, edits: Sequence[Mapping[str, Any]], patches: Sequence[int] | None = None,
        classes: Sequence[str] | None = None, target: str | None = None,
    ) -> EditOutcome:  # fmt: skip
        """What the model predicts under edits of codes, next to control edits of the same size.

        Args:
            edits: as :func:`saev.editing.edits.edit_to_dict` writes them, applied in order.
            patches: edits at "all" tokens are confined to them, and "mask" means them; None: no patches.
            classes: names for a zero-shot head in place of the explorer's.
            target: the class that controls are made for; None: the one that the edit changes most.

        Raises:
            UserError: an unknown image, latent, patch or class; no head.
        """
        found = self.limits.edits(edits, patches)
        mask = None
        if patches is not None and len(patches):
            mask = torch.from_numpy(self.limits.chosen(patches)).to(self.setting.device)[None]
        readout = self.answers.readout(classes)
        return run_edit(self.answers, self.arms, readout, key, found, mask, target)

    def search(
        self, *, text: str | None = None, concept: str | None = None,
        patches: tuple[str, Sequence[int]] | None = None, like: int | None = None, n: int = 30,
    ) -> list[RankedLatent]:  # fmt: skip
        """Latents by one of four questions, best first.

        Args:
            text: words in names and concepts of the atlas; then, with a text tower, whatever text.
            concept: what should be predicted: of the atlas, or a class of the head.
            patches: key of an image and some of its patches, as an example.
            like: a latent, for those with a similar atom.
            n: at most 200.

        Raises:
            UserError: none or several questions, or one that cannot be answered here.
        """
        if sum(question is not None for question in (text, concept, patches, like)) != 1:
            raise UserError("ask one thing: text, concept, patches or like")
        n = max(1, min(n, MOST_ROWS))
        if text is not None:
            return self.searches.by_text(text, n)
        if concept is not None:
            return self.searches.by_concept(concept, n)
        if like is not None:
            return self.searches.like(self.limits.latent(like), n)
        assert patches is not None
        key, chosen = patches[0], self.limits.chosen(patches[1])
        return self.rows.like_patches(self._codes(key), chosen, n)

    # --- what is kept -----------------------------------------------------------------------------

    def hypothesis(self, state: ViewState) -> str:
        """YAML of a hypothesis about the edit on the screen, for ``saev.intervene``.

        It asks whether the edit moves the state's target, or else the class that it moves most here, on
        held-out images that were not in the gallery.

        Raises:
            UserError: no edit, or edits that one hypothesis cannot hold; too few images are left.
        """
        if state.key is None:
            raise UserError("no picture is chosen: choose one, and edit a latent")
        if state.classes:
            raise UserError(
                "typed classes have no labelled images to test on: make the hypothesis with the head of "
                "the explorer"
            )
        outcome = self.edit(state.key, state.edits, state.edited_patches, target=state.target)
        edits = self.limits.edits(state.edits, state.edited_patches)
        assert self.readout is not None
        command = command_words(self.setting, self.sae, self.head or self.readout.name)
        return hypothesis_text(
            self.setting, edits, outcome.target, outcome.arms["selected"].target_change > 0,
            self.start.stats.largest, self.seen, command,
        )  # fmt: skip

    def run_hypothesis(
        self, yaml_text: str, out_dir: str | Path, progress: Callable[[float, str], None]
    ) -> Path:
        """Tests a hypothesis; its page, ``report/index.html`` in ``out_dir``.

        ``progress`` gets the share that is done and what is being done. One hypothesis at a time;
        pictures can be looked at meanwhile.

        Raises:
            UserError: a hypothesis that is not allowed, too large for a page, or while another is
                tested.
        """
        if self.readout is None:
            raise UserError(NO_HEAD)
        if not self._testing.acquire(blocking=False):
            raise UserError("another hypothesis is being tested: wait until it is done")
        try:
            own = replace(self.setting, backbone=self.answers.copied_backbone())
            page, verdicts = tested_hypothesis(own, yaml_text, Path(out_dir), progress)
        finally:
            self._testing.release()
        self.rungs |= rungs_in_words([(verdict.latents, verdict.rung) for verdict in verdicts])
        return page

    def python(self, state: ViewState) -> str:
        """A script with the public API that repeats the edit on the screen.

        Raises:
            UserError: no picture or no edit.
        """
        if state.key is None:
            raise UserError("no picture is chosen: choose one, and edit a latent")
        item = self.pictures.items.get(state.key)
        known = Scripted(
            self.sae, self.head, self.setting.source.spec(),
            None if item is None else item.image_id, state.patches, state.classes,
        )  # fmt: skip
        edits = self.limits.edits(state.edits, state.edited_patches)
        return python_script(edits, self.start.stats.largest, known)
