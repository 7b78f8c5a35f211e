"""Throughput: tokens per second, and the time spent waiting for data."""

import time
from typing import Any, Protocol, runtime_checkable

import lightning as L

from saev.training.distributed import world_size
from saev.training.sae_module import ActivationBatch
from saev.training.schedules import is_logged


@runtime_checkable
class CountedBatch(ActivationBatch, Protocol):
    """A batch that knows from how many images its tokens come."""

    n_images: int


class Throughput(L.Callback):
    """Logs, over the steps since the last log (validation and checkpoints left out):

    - ``train/tokens_per_second``: over all ranks;
    - ``train/data_wait_fraction``: share of the time spent waiting for the next batch;
    - ``train/images_per_batch``: mean number of distinct images in a batch, a measure of shuffling.

    On a GPU the clock is the host's: kernels still queued count in the interval that waits for
    them.
    """

    def __init__(self) -> None:
        self._start_interval()
        self._batch_ended: float | None = None
        self._batch_started = 0.0

    def _start_interval(self) -> None:
        self._n_tokens = 0
        self._n_images = 0
        self._n_batches = 0
        self._waited = 0.0
        self._worked = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start_interval()
        self._batch_ended = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._batch_started = time.perf_counter()
        if self._batch_ended is not None:
            self._waited += self._batch_started - self._batch_ended

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: CountedBatch,
        batch_idx: int,
    ) -> None:
        self._worked += time.perf_counter() - self._batch_started
        self._n_tokens += len(batch.acts) * world_size()
        self._n_images += batch.n_images
        self._n_batches += 1
        if is_logged(trainer, trainer.global_step):
            seconds = self._waited + self._worked
            values = {
                "tokens_per_second": self._n_tokens / seconds,
                "data_wait_fraction": self._waited / seconds,
                "images_per_batch": self._n_images / self._n_batches,
            }
            pl_module.log_dict({f"train/{name}": value for name, value in values.items()})
            self._start_interval()
        self._batch_ended = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # The time since the last training batch was not spent waiting for data.
        self._batch_ended = None

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._batch_ended = None
