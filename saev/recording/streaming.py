"""Activations without tars: images → frozen backbone → reservoir → batches, in the run that trains.

Shape legend: b batch, t tokens of one image, d width.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.activations.format import Statistics
from datamodules.activations.norms import array_statistics, check_multiple, token_norms
from datamodules.activations.position import StreamPosition
from datamodules.activations.reservoir import Reservoir
from datamodules.activations.stream import TokenBatch
from datamodules.images.base import ImageSource
from datamodules.images.batches import in_order, loaded_batches
from datamodules.progress import progress_bar
from saev.backbones.base import Backbone
from saev.errors import UserError
from saev.recording.request import RecordingRequest
from saev.recording.shard_recorder import ShardRecorder

AHEAD = 2
"""Batches of images that the backbone is ahead where it has a device of its own."""

KEPT_BATCHES = 8
"""A trainer asks for batches before it has trained on them; a checkpoint in between holds them."""


class StreamingActivations(StreamPosition):
    """Batches of tokens that a backbone makes as they are asked for; nothing is written.

    In each epoch every training image comes once, in an order of its own, and every normal token once;
    tokens are mixed in a reservoir as those of tars are. Images that are held out are not trained on: the
    first ``heldout_tokens`` of theirs, which stay in memory, are what validation sees.

    A checkpoint holds the reservoir, the place in the order of images and the generator, so that a resumed
    run goes on with the very batch that an undisturbed one would have had.

    Args:
        tokens, n_per_image: which tokens of an image, as a recording has them.
        batch_size: tokens per step.
        images_per_batch: images per forward pass.
        num_workers: processes that read images.
        max_norm: tokens above this multiple of the median norm do not train; None: no limit.
        statistics_images: training images that mean, scale and median norm are measured on.
        dtype: of the tokens in the reservoir, "float16" or "float32".
        precision: "32" or "bf16" autocast of the backbone.
        device: where the backbone runs; None: where it is.
        beside: whether the backbone runs in a thread of its own; None: where it is not on the CPU, which
            one of the two alone keeps busy.

    Raises:
        UserError: no training images, a broken image, values that the dtype cannot hold.
    """

    def __init__(
        self,
        backbone: Backbone,
        source: ImageSource,
        *,
        batch_size: int,
        reservoir_tokens: int,
        images_per_batch: int,
        num_workers: int,
        seed: int,
        max_norm: float | None,
        statistics_images: int,
        heldout_tokens: int,
        tokens: str = "patch",
        n_per_image: int | None = None,
        dtype: str = "float16",
        precision: str = "32",
        token_seed: int = 0,
        device: str | torch.device | None = None,
        beside: bool | None = None,
    ) -> None:
        super().__init__()
        check_multiple(max_norm)
        if reservoir_tokens < batch_size:
            raise ValueError(
                f"data.reservoir_tokens={reservoir_tokens} must be at least data.batch_size={batch_size}; "
                "several times as much mixes better."
            )
        self.backbone, self.source = backbone, source
        self.batch_size, self.reservoir_tokens = batch_size, reservoir_tokens
        self.images_per_batch, self.num_workers = images_per_batch, num_workers
        self.seed, self.max_norm = seed, max_norm
        self.statistics_images, self.heldout_tokens = statistics_images, heldout_tokens
        self.request = RecordingRequest.of(
            backbone, source, [backbone.layer], tokens=tokens, n_per_image=n_per_image, dtype=dtype,
            images_per_shard=1, seed=token_seed,
        )  # fmt: skip
        found = torch.device(device or next((p.device for p in backbone.parameters()), "cpu"))
        self.reader = ShardRecorder(self.request, backbone, source, {}, precision, found)
        self.beside = found.type != "cpu" if beside is None else beside
        self.training = [i for i, item in enumerate(source.items) if item.split == "train"]
        if not self.training:
            raise UserError(f"the image source {source.name!r} has no training images")
        self.has_heldout = len(self.training) < len(source.items)
        self.current: _Reading | None = None
        self._seen: list[np.ndarray] = []
        """Tokens that statistics were taken of, until training begins."""
        self._restored: dict[str, Any] | None = None

    @property
    def width(self) -> int:
        """Numbers per token."""
        return self.backbone.width

    def chunks(self, epoch: int) -> list[list[int]]:
        """Positions of the images of an epoch, in batches."""
        order = np.random.default_rng([self.seed, epoch]).permutation(self.training).tolist()
        return [[order[i] for i in chunk] for chunk in in_order(len(order), self.images_per_batch)]

    def activations(self, chunks: list[list[int]]) -> Iterator[list[Float[np.ndarray, "t d"]]]:
        """Of each batch of images, one array an image."""
        batches = loaded_batches(
            self.source,
            self.source.items,
            self.backbone.transform,
            chunks,
            num_workers=self.num_workers,
            pin_memory=self.reader.device.type == "cuda",
        )
        for batch in batches:
            yield list(self.reader.read(batch, [self.backbone.layer])[self.backbone.layer])

    @cached_property
    def statistics(self) -> Statistics:
        """Of the first images that are trained on."""
        n_batches = -(-self.statistics_images // self.images_per_batch)
        chunks = self.chunks(0)[:n_batches]
        found: list[np.ndarray] = []
        with progress_bar("statistics of the stream", sum(map(len, chunks))) as advance:
            for chunk, images in zip(chunks, self.activations(chunks), strict=True):
                found += images
                advance(len(chunk))
        if not found:
            raise UserError(
                f"no image of {self.source.name!r} among the first {len(chunks)} can be read"
            )
        self._seen = found
        return array_statistics(lambda: found, self.max_norm)

    def pool(self, n_tokens: int) -> Float[Tensor, "n d"]:
        """So many normal tokens: some of those that statistics were taken of, as far as they go."""
        limit = self.statistics.max_norm
        seen = np.concatenate(self._seen) if self._seen else np.empty((0, self.width))
        if limit is not None and len(seen):
            seen = seen[(token_norms(seen) <= limit).numpy()]
        if len(seen) < n_tokens:
            reading = self.current  # of a training that goes on
            try:
                return super().pool(n_tokens)
            finally:
                self.current = reading
        chosen = np.random.default_rng([self.seed, 0, 2]).permutation(len(seen))[:n_tokens]
        return torch.from_numpy(seen[chosen]).float()

    @cached_property
    def heldout(self) -> Float[np.ndarray, "n d"]:
        """Tokens of held-out images, normal or not, in order."""
        positions = [i for i, item in enumerate(self.source.items) if item.split != "train"]
        chunks = [
            [positions[i] for i in one] for one in in_order(len(positions), self.images_per_batch)
        ]
        found, n = [np.empty((0, self.width), self.request.dtype)], 0
        for images in self.activations(chunks):
            found += images
            n += sum(map(len, images))
            if n >= self.heldout_tokens:
                break
        return np.concatenate(found)[: self.heldout_tokens]

    def prepare_data(self) -> None:
        """Looks at some images for their statistics, and at what is held out."""
        _ = self.statistics, self.heldout

    def train_dataloader(self) -> _Batches:
        """Endless; each iteration over it begins at the current position."""
        return _Batches(self)

    def val_dataloader(self) -> _Heldout:
        """The held-out tokens in memory, in order, once."""
        return _Heldout(self)

    def provenance(self) -> dict[str, Any]:
        """Fields of ``SAEConfig`` that say what a dictionary was fitted to."""
        request = self.request
        positions = self.reader.positions.tolist()
        return {
            "backbone": request.backbone,
            "layer": self.backbone.layer,
            "tokens": {
                "which": request.tokens,
                "n_per_image": request.n_per_image,
                "positions": positions,
            },
        }

    def order(self) -> dict[str, Any]:
        """What determines which tokens the n-th batch holds."""
        return {
            "images": self.request.id(self.backbone.layer),
            "batch_size": self.batch_size,
            "reservoir_tokens": self.reservoir_tokens,
            "images_per_batch": self.images_per_batch,
            "seed": self.seed,
            "max_norm": self.max_norm,
        }

    def stream_state(self, position: int) -> dict[str, Any] | None:
        """Everything from which the batches after the first ``position`` follow; None before the first."""
        return None if self.current is None else self.current.state(position)

    def state_dict(self) -> dict[str, Any]:
        """Position, order, and the stream's state there."""
        return {**super().state_dict(), "stream": self.stream_state(self.position)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a position."""
        super().load_state_dict(state_dict)
        self._restored = state_dict.get("stream")

    def setup(self, stage: str) -> None:
        """A fit without a checkpoint begins at the first batch."""
        super().setup(stage)
        if stage == "fit":
            self._restored = None

    def begin_reading(self) -> _Reading:
        """A stream from the current position on; raises UserError on several devices."""
        if self.place()[1] > 1:
            raise UserError(
                "data=streaming trains on one device; set trainer.devices=1, or record with data=tars"
            )
        self.begin_iteration()
        if self.trainer is not None:
            self._seen = []
        self.current = _Reading(self, self.position, self._restored)
        return self.current


class _Batches:
    def __init__(self, data: StreamingActivations) -> None:
        self.data = data

    def __iter__(self) -> Iterator[TokenBatch]:
        reading = self.data.begin_reading()
        try:
            while True:
                batch = reading.next_batch()
                yield TokenBatch(batch.acts.float(), batch.n_images)
        finally:
            reading.close()


class _Heldout:
    def __init__(self, data: StreamingActivations) -> None:
        self.data = data

    def __len__(self) -> int:
        return -(-len(self.data.heldout) // self.data.batch_size)

    def __iter__(self) -> Iterator[TokenBatch]:
        for first in range(0, len(self.data.heldout), self.data.batch_size):
            acts = torch.from_numpy(self.data.heldout[first : first + self.data.batch_size])
            yield TokenBatch(acts.float(), 1)


class _Reading:
    """One passage through the stream, whose state can be taken at any batch that is not long past."""

    def __init__(
        self, data: StreamingActivations, position: int, state: dict[str, Any] | None
    ) -> None:
        self.data, self.n_given = data, position
        self.reservoir = Reservoir(data.reservoir_tokens, data.width, data.request.dtype)
        self.epoch = self.n_chunks = self.n_images = 0
        self.waiting: deque[np.ndarray] = deque()
        """Images that the backbone has made and the reservoir has no room for."""
        self.generator = np.random.default_rng([data.seed, 0, 1])
        self.last: deque[TokenBatch] = deque(maxlen=KEPT_BATCHES)
        self.replayed: deque[TokenBatch] = deque()
        if state is not None:
            self._restore(state)
        elif position:
            raise UserError(
                f"the checkpoint was left by data=tars and has no place in a stream of images for batch "
                f"{position}; go on with data=tars, or leave ckpt_path out"
            )
        self.made = self._of_epoch()

    def next_batch(self) -> TokenBatch:
        """Of normal tokens, in the dtype of the reservoir."""
        batch = self.replayed.popleft() if self.replayed else self._draw()
        self.last.append(batch)
        self.n_given += 1
        return batch

    def _draw(self) -> TokenBatch:
        while not self._is_due():
            if self.waiting:
                self._add()
                continue
            images = next(self.made, None)
            if images is not None:
                self.n_chunks += 1
                self.waiting.extend(map(self._normal, images))
                continue
            # the end of an epoch: what is less than a batch is left out, as it is of tars
            self.reservoir.clear()
            self.epoch, self.n_chunks = self.epoch + 1, 0
            self.generator = np.random.default_rng([self.data.seed, self.epoch, 1])
            self.made = self._of_epoch()
        n_tokens = self.data.batch_size
        acts = torch.empty(n_tokens, self.data.width, dtype=getattr(torch, self.data.request.dtype))
        return TokenBatch(
            acts, self.reservoir.read(self.reservoir.choose(n_tokens, self.generator), acts)
        )

    def _is_due(self) -> bool:
        """Whether a batch is drawn now: from a full reservoir, or from what an epoch's end leaves."""
        if self.reservoir.n_free == 0:
            return True
        ended = not self.waiting and self.n_chunks == self.n_chunks_of_epoch
        return ended and self.reservoir.n_held >= self.data.batch_size

    def _add(self) -> None:
        acts = self.waiting.popleft()
        n_taken = self.reservoir.add(acts, self.n_images)
        if n_taken < len(acts):
            self.waiting.appendleft(acts[n_taken:])
        else:
            self.n_images += 1

    def _normal(self, acts: np.ndarray) -> np.ndarray:
        limit = self.data.statistics.max_norm
        return acts if limit is None else acts[(token_norms(acts) <= limit).numpy()]

    def _of_epoch(self) -> Iterator[list[np.ndarray]]:
        """What is left of the current epoch."""
        chunks = self.data.chunks(self.epoch)
        self.n_chunks_of_epoch = len(chunks)
        made = self.data.activations(chunks[self.n_chunks :])
        return Beside(made, AHEAD) if self.data.beside else made

    def close(self) -> None:
        """Ends workers and the thread."""
        if isinstance(self.made, Beside):
            self.made.close()

    def state(self, position: int) -> dict[str, Any] | None:
        """Plain values and tensors; None for a batch that is long past."""
        n_ahead = self.n_given - position
        if not 0 <= n_ahead <= len(self.last):
            return None
        ahead = [*list(self.last)[len(self.last) - n_ahead :], *self.replayed]
        return {
            "epoch": self.epoch,
            "n_chunks": self.n_chunks,
            "n_images": self.n_images,
            "generator": self.generator.bit_generator.state,
            "reservoir": {k: torch.from_numpy(v) for k, v in self.reservoir.state().items()},
            "waiting": [torch.from_numpy(acts.copy()) for acts in self.waiting],
            "ahead": [(batch.acts, batch.n_images) for batch in ahead],
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.epoch, self.n_chunks = state["epoch"], state["n_chunks"]
        self.n_images = state["n_images"]
        self.generator.bit_generator.state = state["generator"]
        self.reservoir.restore({k: v.numpy() for k, v in state["reservoir"].items()})
        self.waiting.extend(acts.numpy() for acts in state["waiting"])
        self.replayed.extend(TokenBatch(acts, n) for acts, n in state["ahead"])


class Beside(Iterator[Any]):
    """An iterator that a thread runs, a few things ahead of who asks."""

    def __init__(self, made: Iterator[Any], n_ahead: int) -> None:
        self._queue: queue.Queue[tuple[str, Any]] = queue.Queue(n_ahead)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(made,), daemon=True)
        self._thread.start()

    def _run(self, made: Iterator[Any]) -> None:
        try:
            for one in made:
                if not self._put("one", one):
                    return
            self._put("end", None)
        except BaseException as error:
            self._put("error", error)

    def _put(self, kind: str, what: Any) -> bool:
        while not self._is_over.is_set():
            try:
                self._queue.put((kind, what), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __next__(self) -> Any:
        if self._is_over.is_set():
            raise StopIteration
        kind, what = self._queue.get()
        if kind == "one":
            return what
        self.close()
        if kind == "error":
            raise what
        raise StopIteration

    def close(self) -> None:
        """Ends the thread, after what it is at."""
        self._is_over.set()
