"""Causes: where on the input a latent's code comes from, while others go on looking."""

import threading

from saev.attribution.attribute import Attribution, attribute
from saev.attribution.order_curves import InsertionDeletion
from saev.backbones import Backbone
from saev.exploration.model_answers import ModelAnswers
from saev.exploration.pictures import Recent
from saev.intervention.setting import Setting

MOST_MAPS = 32


class Causes:
    """Attributions of the last images and latents asked for.

    They take seconds, and hooks on the blocks: so they have a copy of the backbone, made at the first.
    """

    def __init__(self, setting: Setting, answers: ModelAnswers) -> None:
        self.setting, self.answers, self.pictures = setting, answers, answers.pictures
        self._backbone: Backbone | None = None
        self._lock = threading.Lock()
        self._kept: Recent[Attribution] = Recent(MOST_MAPS)
        self._curves: Recent[InsertionDeletion] = Recent(MOST_MAPS)

    def of(self, key: str, latent: int, method: str) -> Attribution:
        """See :meth:`saev.exploration.explorer.Explorer.attribution`."""
        pixels = self.pictures.pixels(key)
        with self._lock:
            found = self._kept.get((key, latent, method))
            if found is None:
                if self._backbone is None:
                    self._backbone = self.answers.copied_backbone()
                pixels = pixels.to(self.setting.device)
                found = attribute(self.setting.sae, self._backbone, pixels, latent, method=method)
                self._kept.put((key, latent, method), found)
            return found

    def curves_of(self, key: str, latent: int, method: str) -> InsertionDeletion:
        """See :meth:`saev.exploration.explorer.Explorer.insertion_deletion`; it runs the same copy."""
        attribution = self.of(key, latent, method)
        with self._lock:
            found = self._curves.get((key, latent, method))
            if found is None:
                found = attribution.insertion_deletion()
                self._curves.put((key, latent, method), found)
            return found
