"""Position in an endless stream of batches, kept in checkpoints so that a resumed run goes on there."""

from __future__ import annotations

import warnings
from typing import Any

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.activations.format import Statistics


class StreamPosition(L.LightningDataModule):
    """Counts the training batches that the trainer has consumed, over resumes.

    A subclass says in ``order`` what determines which tokens the n-th batch holds.
    """

    batch_size: int
    """Tokens per step and rank."""
    statistics: Statistics
    """Of the training tokens."""
    has_heldout = True
    """Whether there is anything to validate on."""

    def __init__(self) -> None:
        super().__init__()
        self._start_batch = 0
        self._n_processed_before: int | None = None

    def setup(self, stage: str) -> None:
        """A fit without a checkpoint begins at the first batch."""
        if stage == "fit":
            self._start_batch, self._n_processed_before = 0, None

    @property
    def position(self) -> int:
        """Training batches each rank has consumed, over resumes."""
        before = self._n_processed_before
        return self._start_batch + (0 if before is None else self._n_processed() - before)

    def begin_iteration(self) -> None:
        """To be called where an iteration over training batches begins, at ``position``."""
        if self._n_processed_before is None:
            self._n_processed_before = self._n_processed()

    def pool(self, n_tokens: int) -> Float[Tensor, "n d"]:
        """So many tokens of the training stream from ``position`` on, which come from many images."""
        self.setup("fit")
        batches, n = [], 0
        for batch in self.train_dataloader():
            batches.append(batch.acts)
            n += len(batch.acts)
            if n >= n_tokens:
                break
        return torch.cat(batches)[:n_tokens]

    def provenance(self) -> dict[str, Any]:
        """Fields of ``SAEConfig`` that say what a dictionary was fitted to; none for an array."""
        return {}

    def order(self) -> dict[str, Any]:
        """What determines which tokens the n-th batch holds; plain values."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """The position, and what it is a position in."""
        return {"position": self.position, **self.order()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a position; warns when it is one in another order of batches."""
        self._start_batch, self._n_processed_before = state_dict["position"], None
        for name, value in self.order().items():
            if state_dict[name] != value:
                warnings.warn(
                    f"The checkpoint was trained with {name}={state_dict[name]}, this run has "
                    f"{value}: it goes on with other batches than it would have seen.",
                    stacklevel=2,
                )

    def place(self) -> tuple[int, int]:
        """Rank and number of ranks."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _n_processed(self) -> int:
        # restored with the checkpoint, and counted before a checkpoint at a batch's end is written
        if self.trainer is None:
            return 0
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.processed  # pyright: ignore
