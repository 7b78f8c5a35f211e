"""Shuffle buffer: a fixed number of slots in which tokens of many images are mixed.

Shape legend: n slots, b batch, t tokens, d width.
"""

from __future__ import annotations

import numpy as np
import torch


class Reservoir:
    """Tokens go in image by image and come out as uniform random batches, each exactly once.

    One copy per image and one gather per batch, no work per token: ``_slots`` is a permutation of
    the slot numbers whose first ``n_held`` entries are the filled ones.
    """

    def __init__(self, n_slots: int, width: int, dtype: str) -> None:
        self._acts_nd = np.zeros((n_slots, width), dtype)  # zeros: the pages are touched once
        self._image_n = np.zeros(n_slots, np.int64)
        self._slots = np.arange(n_slots)
        self.n_held = 0

    @property
    def n_free(self) -> int:
        """Empty slots."""
        return len(self._slots) - self.n_held

    def clear(self) -> None:
        """Forgets what is held and all history: the same moves give the same batches again."""
        self._slots = np.arange(len(self._slots))
        self.n_held = 0

    def add(self, acts_td: np.ndarray, image: int) -> int:
        """Takes as many rows from the front as there are free slots; returns how many.

        ``image`` is any number that tells this image from the others held.
        """
        n_taken = min(len(acts_td), self.n_free)
        slots = self._slots[self.n_held : self.n_held + n_taken]
        self._acts_nd[slots] = acts_td[:n_taken]
        self._image_n[slots] = image
        self.n_held += n_taken
        return n_taken

    def choose(self, n_tokens: int, generator: np.random.Generator) -> np.ndarray:
        """Frees a uniform random choice of filled slots and returns their numbers.

        Their content stays until the next ``add``: pass them to ``read`` before that, or do not,
        to go through the same moves without the cost of the copy.
        """
        n_left = self.n_held - n_tokens
        chosen = generator.choice(self.n_held, n_tokens, replace=False)
        slots = self._slots[chosen]
        # the filled slots at the end that were not chosen move into the gaps further in front
        stays = np.ones(n_tokens, bool)
        stays[chosen[chosen >= n_left] - n_left] = False
        self._slots[chosen[chosen < n_left]] = self._slots[n_left : self.n_held][stays]
        self._slots[n_left : self.n_held] = slots
        self.n_held = n_left
        return slots

    def read(self, slots: np.ndarray, out_bd: torch.Tensor) -> int:
        """Writes the rows in these slots to ``out_bd``, (b, d); returns from how many images they come."""
        # "raise" would gather into a buffer first; there is no slot that is not there
        np.take(self._acts_nd, slots, axis=0, out=out_bd.numpy(), mode="clip")
        return len(np.unique(self._image_n[slots]))

    def state(self) -> dict[str, np.ndarray]:
        """Copies of what is held, from which ``restore`` makes a reservoir that goes on alike."""
        held = self._slots[: self.n_held]
        return {
            "slots": self._slots.copy(),
            "acts": self._acts_nd[held],
            "images": self._image_n[held],
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Takes the state of one of the same size."""
        self._slots, self.n_held = state["slots"].copy(), len(state["acts"])
        held = self._slots[: self.n_held]
        self._acts_nd[held], self._image_n[held] = state["acts"], state["images"]
