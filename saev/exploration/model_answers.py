"""Model answers: codes of an image, and predictions from edited streams; one model for many threads.

Suffixes: b images, p tokens, t tokens, d width, k streams, u units, c columns.
"""

import copy
import threading
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saev.backbones import Backbone
from saev.editing.tokens import Encoded, Tokens, encode
from saev.errors import UserError
from saev.exploration.own_readout import NO_HEAD, typed_readout
from saev.exploration.pictures import Pictures, Recent
from saev.exploration.view_state import STATE
from saev.files import check_fields
from saev.intervention.judge.tally import predict
from saev.intervention.readout import Readout
from saev.intervention.setting import Setting

MOST_STREAM_BYTES = 2**28
"""Of streams and codes that are kept."""
MAX_ROWS = 16
"""Streams in one forward pass from the tap on."""


class ModelAnswers:
    """Keeps the streams of the last images at the tap, so that every edit starts from there.

    ``lock`` is around the model: who asks several things that belong together holds it meanwhile.
    """

    def __init__(
        self, setting: Setting, tokens: Tokens, pictures: Pictures, readout: Readout | None
    ) -> None:
        self.setting, self.tokens, self.pictures, self.own = setting, tokens, pictures, readout
        self.lock = threading.RLock()
        self._tapped: Recent[Encoded] = Recent(most_bytes=MOST_STREAM_BYTES)
        self._typed: Recent[Readout] = Recent(16)
        self._tower: Any = None

    @torch.no_grad()
    def encoded(self, key: str) -> Encoded:
        """The stream at the tap and its codes, of one image."""
        with self.lock:
            found = self._tapped.get(key)
            if found is None:
                acts = self.setting.tap(self.pictures.pixels(key)[None])
                found = encode(self.setting.sae, self.tokens, acts)
                n_bytes = sum(part.nbytes for part in (found.acts, found.x, found.z))
                self._tapped.put(key, found, n_bytes)
            return found

    @torch.no_grad()
    def probabilities(
        self, readout: Readout, streams: Sequence[Float[Tensor, "_ t d"] | None]
    ) -> Float[Tensor, "k u c"]:
        """What a head says of streams, one after the other; the model runs from the tap on."""
        there = [one for one in streams if one is not None]
        if not there:
            return torch.empty(0, 0, 0)
        backbone, layer = self.setting.backbone, self.setting.layer
        parts = []
        with self.lock:
            for rows in torch.cat(there).split(MAX_ROWS):
                logits = readout.of_acts(backbone, rows, layer)
                parts.append(predict(logits, readout.groups).probabilities)
        return torch.cat(parts)

    def readout(self, classes: Sequence[str] | None) -> Readout:
        """The explorer's head, or a zero-shot one for typed names.

        Raises:
            UserError: there is no head, no text tower, or names that cannot be told apart.
        """
        if not classes:
            if self.own is None:
                raise UserError(NO_HEAD)
            return self.own
        names = tuple(classes)
        check_fields({"classes": names}, STATE, "the class names", "shorten them")
        with self.lock:
            readout = self._typed.get(names)
            if readout is None:
                readout = self._typed.put(names, typed_readout(self.text_tower(), names))
            return readout

    def copied_backbone(self) -> Backbone:
        """A model of one's own; made while nobody's hooks are on this one."""
        with self.lock:
            return copy.deepcopy(self.setting.backbone)

    def text_tower(self) -> Any:
        """The model's, built once; UserError where it has none."""
        with self.lock:
            if self._tower is None:
                self._tower = self.setting.backbone.text_tower()
            return self._tower
