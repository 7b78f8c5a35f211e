"""The explorer without its page: pictures, latents, edits next to their controls, searches.

Suffixes: t tokens, d width, s latents, k streams, u units, c columns, gh gw grid of patches.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor, nn

from datamodules.images import ImageSource
from datamodules.progress import progress_bars
from saev.atlas.atlas import Atlas
from saev.backbones import Backbone
from saev.cli.results import chosen_device
from saev.editing.code_edits import CodeEdit, edited_latents
from saev.editing.edits import edit_from_dict, parse_where
from saev.editing.tokens import Encoded, Tokens, encode
from saev.errors import UserError
from saev.exploration.answers import (
    ArmOutcome,
    EditOutcome,
    GalleryImage,
    LatentRow,
    ShownExemplar,
)
from saev.exploration.crops import crop_around
from saev.exploration.edit_arms import UNTRAINED, Arm, EditArms
from saev.exploration.edit_outcome import CONTROLS, LABELS, Answers, exceeded
from saev.exploration.latent_rows import LatentRows
from saev.exploration.own_readout import (
    NO_HEAD,
    no_readout,
    readout_for,
    trained_head_of,
    typed_readout,
)
from saev.exploration.pictures import Pictures, Recent
from saev.exploration.start_up import StartUp, read_start_up, start_up_items
from saev.exploration.view_state import EDIT, MOST_EDITS, MOST_PATCHES, STATE
from saev.files import a_list, check_fields
from saev.intervention.hypothesis import Hypothesis, Images
from saev.intervention.judge.tally import predict
from saev.intervention.readout import Readout
from saev.intervention.setting import Setting
from saev.intervention.splits import in_turn
from saev.loading import backbone_of, check_belongs, images_for
from saev.sae import SparseAutoencoder
from saev.sources import open_images

N_GALLERY = 24
THUMBNAIL = 96
MOST_STREAM_BYTES = 2**28
"""Of streams and codes that are kept."""
MAX_ROWS = 16
"""Streams in one forward pass from the tap on."""
BATCH_SIZE = 16


class Explorer:
    """Answers everything that a screen asks for; safe for many threads.

    No answer depends on an earlier question: state is in arguments and returns. One lock is around the
    model. See :meth:`open`.
    """

    def __init__(
        self, setting: Setting, start: StartUp, tokens: Tokens, has_head: bool, atlas: Atlas | None,
        names: Mapping[str, str | None],
    ) -> None:  # fmt: skip
        self.setting, self.start, self.tokens = setting, start, tokens
        self.names = dict(names)
        """How ``sae`` and ``head`` were given, for scripts."""
        self.grid: tuple[int, int] = setting.backbone.grid
        self.d_sae = setting.sae.cfg.d_sae
        self.readout: Readout | None = setting.readout if has_head else None
        self.pictures = Pictures(setting.backbone, setting.source)
        self.rungs: dict[int, str] = {}
        self.rows = LatentRows(start, atlas, self.rungs)
        self.arms = EditArms(setting, start, tokens)
        self._lock = threading.RLock()
        self._tapped: Recent[Encoded] = Recent(most_bytes=MOST_STREAM_BYTES)
        self._typed: Recent[Readout] = Recent(16)
        self._tower: Any = None
        self._start_keys = self.pictures.know(start.items)
        self.gallery: list[GalleryImage] = self._gallery()

    @classmethod
    def open(
        cls, sae: str | Path | SparseAutoencoder, head: str | Path | None = None,
        atlas: str | Path | None = None, images: ImageSource | str | Path | None = None, *,
        backbone: Backbone | nn.Module | str | None = None, n_images: int = 200, seed: int = 0,
        device: str | torch.device | None = None,
    ) -> Explorer:  # fmt: skip
        """An explorer of one dictionary.

        Args:
            sae: a dictionary, its folder or its id on the hub.
            head: folder of a trained head, or "classifier", "zero_shot", "attributes"; None: what the
                model comes with, if anything.
            atlas: folder ``latents/`` of a describe run, for names and search; None: none.
            images: a source, its name in ``conf/images``, or a folder; None: the images that the head,
                or the dictionary, was trained on.
            backbone: the model it was trained on; None: the one it names.
            n_images: training images read at the start, for largest codes, rates and controls.
            device: None: a GPU where there is one.

        Raises:
            UserError: nothing there, or things that do not belong together.
        """
        if n_images < 1:
            raise UserError(f"n_images={n_images} must be 1 or more")
        name = "the dictionary" if isinstance(sae, SparseAutoencoder) else str(sae)
        opened = (
            sae if isinstance(sae, SparseAutoencoder) else SparseAutoencoder.from_pretrained(sae)
        )
        trained = trained_head_of(head)
        model = backbone_of(opened, name, backbone=backbone, head=trained)
        check_belongs(opened, model)
        source = images_for(opened, name, None if images is None else open_images(images), trained)
        found = Atlas.open(atlas) if atlas is not None else None
        readout = readout_for(None if head is None else str(head), trained, model, source)
        assert opened.cfg.tokens is not None
        file = Hypothesis(
            tokens=opened.cfg.tokens["which"], untrained=UNTRAINED, seed=seed,
            images=Images(n_discovery=n_images),
        )  # fmt: skip
        setting = Setting(
            file, opened, model, readout or no_readout(), source, BATCH_SIZE, MAX_ROWS, 0,
            chosen_device(device),
        )  # fmt: skip
        setting.check()
        with progress_bars(False):
            start = read_start_up(setting, start_up_items(setting, n_images))
        names = {"sae": None if isinstance(sae, SparseAutoencoder) else str(sae),
                 "head": None if head is None else str(head)}  # fmt: skip
        return cls(setting, start, setting.edited_tokens, readout is not None, found, names)

    # --- pictures -----------------------------------------------------------------------------

    def add_image(self, data: bytes) -> str:
        """Checks an upload and keeps it in memory, never on disk; its key.

        Raises:
            UserError: more than 20 MB or 50 million pixels, or no image that can be decoded.
        """
        return self.pictures.upload(data)

    def picture(self, key: str) -> Image.Image:
        """An image as the model sees it, after resizing and cropping; UserError for an unknown key."""
        return self.pictures.picture(key)

    def _gallery(self) -> list[GalleryImage]:
        held_out = self.setting.source.split("heldout") or self.setting.source.items
        items = in_turn(held_out)[:N_GALLERY]
        shown = []
        for key, item in zip(self.pictures.know(items), items, strict=True):
            try:
                picture = self.picture(key)
            except UserError:  # a broken file of the source
                continue
            picture.thumbnail((THUMBNAIL, THUMBNAIL))
            shown.append(GalleryImage(key, self.pictures.title(key) or item.image_id, picture))
        return shown

    # --- what fires -----------------------------------------------------------------------------

    @torch.no_grad()
    def _encoded(self, key: str) -> Encoded:
        """The stream at the tap and its codes, of one image; kept for the next question."""
        with self._lock:
            found = self._tapped.get(key)
            if found is None:
                acts = self.setting.tap(self.pictures.pixels(key)[None])
                found = encode(self.setting.sae, self.tokens, acts)
                n_bytes = sum(part.nbytes for part in (found.acts, found.x, found.z))
                self._tapped.put(key, found, n_bytes)
            return found

    def _codes(self, key: str) -> Float[np.ndarray, "p s"]:
        one = self._encoded(key)
        return (one.z * one.normal[..., None])[0].float().cpu().numpy()

    def _chosen(self, patches: Sequence[int] | None) -> Bool[np.ndarray, " p"]:
        """Which of the dictionary's tokens are the patches; all of them for None or none."""
        if patches is None or not len(patches):
            return np.ones(len(self.tokens.positions), bool)
        return np.isin(self.tokens.patches.cpu().numpy(), self._checked(patches))

    def _checked(self, patches: Sequence[int]) -> list[int]:
        n = self.grid[0] * self.grid[1]
        wrong = [p for p in patches if not isinstance(p, int | np.integer) or not 0 <= p < n]
        if wrong or len(patches) > MOST_PATCHES:
            raise UserError(f"there is no patch {wrong[:1]}: they go from 0 to {n - 1}")
        if not self.setting.reads_patches:
            raise UserError("the dictionary reads no patches; look at the whole image")
        return [int(p) for p in patches]

    def _known(self, latent: int) -> int:
        if not isinstance(latent, int | np.integer) or not 0 <= latent < self.d_sae:
            raise UserError(f"there is no latent {latent}: they go from 0 to {self.d_sae - 1}")
        return int(latent)

    def look(
        self, key: str, patches: Sequence[int] | None, n: int = 20, sort: str = "activation"
    ) -> list[LatentRow]:
        """The latents that fire in some patches of an image, best first; None: in all of it.

        Raises:
            UserError: an unknown image, order or patch.
        """
        chosen = self._chosen(patches)
        return self.rows.look(self._codes(key), chosen, n, sort)

    def heatmap(self, key: str, latent: int) -> Float[np.ndarray, "gh gw"]:
        """The latent's code on every patch; 0 where a patch is not read.

        Raises:
            UserError: an unknown image or latent.
        """
        codes = self._codes(key)[:, self._known(latent)]
        patches = self.tokens.patches.cpu().numpy()
        found = np.zeros(self.grid[0] * self.grid[1], np.float32)
        found[patches[patches >= 0]] = codes[patches >= 0]
        return found.reshape(self.grid)

    def exemplars(self, latent: int, n: int = 8) -> list[ShownExemplar]:
        """The start-up images on which a latent is strongest, strongest first; at most 16."""
        shown = []
        for one in self.start.exemplars.of(self._known(latent))[: max(n, 0)]:
            key = self._start_keys[one.image]
            crop = crop_around(self.picture(key), one.patch, self.grid)
            title = self.pictures.title(key)
            shown.append(ShownExemplar(key, crop, one.value, one.patch, title))
        return shown

    # --- edits ------------------------------------------------------------------------------------

    def parsed(
        self, edits: Sequence[Mapping[str, Any]], patches: Sequence[int] | None
    ) -> list[CodeEdit]:
        """Edits from JSON; those at "all" tokens are confined to ``patches`` where there are some.

        Raises:
            UserError: none or too many, an unknown latent or patch, or one that never fired and whose
                amount is a multiple of its largest code.
        """
        check_fields(list(edits), a_list(EDIT, 1, MOST_EDITS), "the edits", "correct them")
        marked = self._checked(patches) if patches is not None and len(patches) else []
        found = []
        for edit in map(edit_from_dict, edits):
            for latent in edit.latents:
                if self.start.stats.largest[self._known(latent)] == 0 and edit.needs_largest:
                    raise UserError(
                        f"latent {latent} fires on none of the {len(self.start.items)} start-up images, "
                        "so no multiple of its largest code means anything; ablate it, or choose another"
                    )
            if edit.where.latent is not None:
                self._known(edit.where.latent)
            self._checked(edit.where.patches) if edit.where.patches else None
            if edit.where.kind in ("mask", "off_mask") and not marked:
                raise UserError(f"where={edit.where.kind} needs marked patches; mark one or more")
            if edit.where.kind == "all" and marked:
                edit = replace(edit, where=parse_where({"patches": marked}))
            found.append(edit)
        return found

    @torch.no_grad()
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
        began = time.perf_counter()
        found = self.parsed(edits, patches)
        with self._lock:
            readout = self._readout(classes)
            if target is not None:
                readout.column(target)
            encoded, tap = self._encoded(key), self.arms.selected(found)
            mask = self._mask(patches)
            delta, changed = tap.delta(encoded, mask)
            random = self.arms.random(found, encoded, mask)
            first = self._answers(readout, [encoded.acts, tap.steer(encoded, mask), random.streams])
            answers = Answers(readout, first[0], first[1], self.grid)
            target = answers.most_changed() if target is None else target
            others = [
                self.arms.untrained(found, target, encoded, mask),
                self.arms.diffmean(found, target, encoded, mask),
            ]
            second = self._answers(readout, [arm.streams for arm in others])
        draws = {"before": first[:1], "selected": first[1:2], "random_latent": first[2:]}
        n_untrained = 0 if others[0].streams is None else len(others[0].streams)
        draws |= {"untrained": second[:n_untrained], "diffmean": second[n_untrained:]}
        controls: dict[str, Arm] = dict(zip(CONTROLS, (random, *others), strict=True))
        arms = {
            name: ArmOutcome(LABELS[name], absent=controls[name].absent)
            if name in controls and controls[name].absent is not None
            else answers.arm(name, rows, target)
            for name, rows in draws.items()
        }
        return EditOutcome(
            per=readout.per, target=target, classes=answers.classes(target), arms=arms,
            exceeds=exceeded(arms), n_tokens=int(changed.sum()),
            length=float(delta[changed].norm(dim=-1).mean()) if bool(changed.any()) else 0.0,
            seconds=time.perf_counter() - began,
        )  # fmt: skip

    def _mask(self, patches: Sequence[int] | None) -> Bool[Tensor, "b p"] | None:
        if patches is None or not len(patches):
            return None
        return torch.from_numpy(self._chosen(patches)).to(self.setting.device)[None]

    def _answers(
        self, readout: Readout, streams: Sequence[Float[Tensor, "k t d"] | None]
    ) -> Float[Tensor, "k u c"]:
        """What the head says of streams; the model runs from the tap on."""
        there = [one for one in streams if one is not None]
        if not there:
            return torch.empty(0, 0, 0)
        parts = [
            predict(
                readout.of_acts(self.setting.backbone, rows, self.setting.layer), readout.groups
            )
            for rows in torch.cat(there).split(MAX_ROWS)
        ]
        return torch.cat([part.probabilities for part in parts])

    def _readout(self, classes: Sequence[str] | None) -> Readout:
        """The explorer's, or a zero-shot one for typed names; UserError where there is neither."""
        if not classes:
            if self.readout is None:
                raise UserError(NO_HEAD)
            return self.readout
        names = tuple(classes)
        check_fields({"classes": names}, STATE, "the class names", "shorten them")
        readout = self._typed.get(names)
        if readout is None:
            if self._tower is None:
                self._tower = self.setting.backbone.text_tower()
            readout = self._typed.put(names, typed_readout(self._tower, names))
        return readout
