"""Runner of the arms: the test images are tapped once, then every edit runs from there on.

Suffixes: b images of a batch, n test images, t tokens, p chosen tokens, d width, u units, g groups,
c columns.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from datamodules.images import ImageItem
from datamodules.progress import progress_bar
from saev.editing.tokens import Encoded, encode
from saev.intervention.arms.injection import Injection
from saev.intervention.judge.tally import Clean, Predictions, Scorer, Tally, predict
from saev.intervention.setting import Setting


@dataclass(frozen=True)
class EncodedBatch:
    """Some test images as edits see them."""

    encoded: Mapping[str, Encoded]
    """By the trained dictionary, "sae", and by the first of the untrained ones."""
    labels: Int[Tensor, "b p g"]
    """Column of each chosen token's patch per group, −1 where there is none; of the image for heads
    that answer per image."""
    images: Int[np.ndarray, " b"]
    """Numbers of the test images."""

    def take(self, rows: Int[Tensor, " k"]) -> "EncodedBatch":
        encoded = {
            which: Encoded(e.acts[rows], e.x[rows], e.z[rows], e.normal[rows])
            for which, e in self.encoded.items()
        }
        return EncodedBatch(encoded, self.labels[rows], self.images[rows.cpu().numpy()])


@dataclass(frozen=True)
class Job:
    """One edit to run; jobs with equal keys run once, whatever arms they serve."""

    steer: Callable[[EncodedBatch], Float[Tensor, "b t d"]]
    owners: frozenset[str] | None = None
    """Hypotheses whose test images it runs on; None: those of any hypothesis."""
    alone: bool = False
    """In batches of exactly the clean pass's shape, so that no change is no change to the bit."""


@dataclass
class TestSet:
    """The test images at the tap, and what the untouched model says of them."""

    __test__ = False  # no test class, whatever pytest thinks of the name

    items: list[ImageItem]
    acts: Float[Tensor, "n t d"]
    labels: Int[Tensor, "n u g"]
    base: Int[Tensor, "n u g"]
    clean: Clean
    batch_size: int

    @property
    def n_images(self) -> int:
        return len(self.items)


@torch.no_grad()
def read_test_images(setting: Setting, items: list[ImageItem]) -> TestSet:
    """Taps every test image once and runs the clean model; the stream at the tap stays in memory."""
    backbone, readout, layer = setting.backbone, setting.readout, setting.layer
    acts, labels, bases, kept = [], [], [], []
    tallies, units = [], []
    for batch in setting.batches(items, "test images"):
        acts_btd = setting.tap(batch.images)
        clean = predict(readout.of_acts(backbone, acts_btd, layer), readout.groups)
        label_bug = torch.stack([readout.labels(item).label for item in batch.items])
        label_bug = label_bug.to(setting.device)
        base_bug = clean.classes if readout.per == "patch" else label_bug
        scorer = Scorer(clean, base_bug, label_bug, readout.groups)
        tallies.append(scorer.score(clean))
        units.append(scorer.units())
        acts.append(acts_btd.cpu())
        labels.append(label_bug.cpu())
        bases.append(base_bug.cpu())
        kept += batch.items
    tally = Tally(*(np.concatenate(part) for part in zip(*tallies, strict=True)))
    counts = [np.concatenate(part) for part in zip(*units, strict=True)]
    return TestSet(
        kept,
        torch.cat(acts),
        torch.cat(labels),
        torch.cat(bases),
        Clean(tally, *counts),
        setting.batch_size,
    )


class Runner:
    """Runs jobs on the test images: codes once per image, edits stacked on the batch axis."""

    def __init__(self, setting: Setting, test: TestSet) -> None:
        self.backbone, self.layer, self.readout = setting.backbone, setting.layer, setting.readout
        self.saes = {which: setting.saes[which] for which in ("sae", setting.untrained[0])}
        self.tokens, self.test = setting.edited_tokens, test
        self.max_rows, self.device = setting.max_rows, setting.device

    def batch(self, images: Int[np.ndarray, " b"]) -> EncodedBatch:
        """Some test images, encoded by both dictionaries whose codes are edited."""
        acts = self.test.acts[images].to(self.device)
        encoded = {which: encode(sae, self.tokens, acts) for which, sae in self.saes.items()}
        return EncodedBatch(encoded, self._token_labels(images), images)

    def _token_labels(self, images: Int[np.ndarray, " b"]) -> Int[Tensor, "b p g"]:
        labels_bug = self.test.labels[images].to(self.device)
        if self.readout.per == "image":
            return labels_bug.expand(-1, len(self.tokens.positions), -1)
        patches_p = self.tokens.patches.to(self.device)
        labels_bpg = labels_bug[:, patches_p.clamp(min=0)]
        return torch.where((patches_p >= 0)[None, :, None], labels_bpg, -1)

    @torch.no_grad()
    def run(
        self,
        jobs: Mapping[Hashable, Job],
        images_of: Mapping[str, Bool[np.ndarray, " n"]],
        injections: Mapping[tuple[str, float], Injection] | None = None,
        description: str = "interventions",
    ) -> dict[Hashable, Tally]:
        """The tally of every job; images that a job did not run on stay NaN.

        ``images_of`` says which test images belong to each owner. Every job is also read with each of
        ``injections`` (by name and strength) in the model; that tally has the key (job, injection), and
        of the images those of the injection alone.
        """
        injections = injections or {}
        n_columns = len(self.readout.concepts)
        anyone_n = np.any(list(images_of.values()), axis=0)
        tallies = {key: Tally.empty(self.test.n_images, n_columns) for key in jobs}
        for name, one in injections.items():
            n_images = int(one.images.sum())
            tallies |= {(key, name): Tally.empty(n_images, n_columns) for key in jobs}
        order = sorted(jobs.items(), key=lambda item: sorted(item[1].owners or ()))
        total = self.test.n_images * len(jobs)
        with progress_bar(description, total, unit="edited images") as advance:
            for first in range(0, self.test.n_images, self.test.batch_size):
                last = min(first + self.test.batch_size, self.test.n_images)
                images = np.arange(first, last)
                stack = _Stack(self, self.batch(images), tallies, injections)
                for owners, group in groupby(order, key=lambda item: item[1].owners):
                    wanted_n = anyone_n
                    if owners is not None:
                        wanted_n = np.any([images_of[owner] for owner in owners], axis=0)
                    chosen = images[wanted_n[images]]
                    self._run_group(stack, group, images, chosen)
                stack.flush()
                advance(len(images) * len(jobs))
        return tallies

    def _run_group(
        self,
        stack: "_Stack",
        group: Iterable[tuple[Hashable, Job]],
        images: Int[np.ndarray, " b"],
        chosen: Int[np.ndarray, " k"],
    ) -> None:
        if not len(chosen):
            return
        rows = torch.from_numpy(chosen - images[0])
        whole = len(chosen) == len(images)
        part = stack.batch if whole else stack.batch.take(rows.to(self.device))
        for key, job in group:
            if job.alone:
                stack.alone(key, job.steer(stack.batch), rows)
            else:
                stack.add(key, job.steer(part), rows)


class _Stack:
    """Edited streams waiting for one forward pass."""

    def __init__(
        self,
        runner: Runner,
        batch: EncodedBatch,
        tallies: dict[Hashable, Tally],
        injections: Mapping[tuple[str, float], Injection],
    ) -> None:
        self.runner, self.batch, self.tallies = runner, batch, tallies
        self.injections = injections
        self.waiting: list[tuple[Hashable, Tensor, Tensor]] = []
        self.n_rows = 0
        self.clean = batch.encoded["sae"].acts
        test, images = runner.test, batch.images
        self.scorer = Scorer(
            self._predict(self._logits(self.clean)),
            test.base[images].to(self.clean.device),
            test.labels[images].to(self.clean.device),
            runner.readout.groups,
        )

    def _logits(self, acts: Float[Tensor, "b t d"]) -> Float[Tensor, "b u c"]:
        return self.runner.readout.of_acts(self.runner.backbone, acts, self.runner.layer)

    def _predict(self, logits: Float[Tensor, "b u c"]) -> Predictions:
        return predict(logits, self.runner.readout.groups)

    def add(self, key: Hashable, acts: Float[Tensor, "k t d"], rows: Int[Tensor, " k"]) -> None:
        self.waiting.append((key, acts, rows))
        self.n_rows += len(rows)
        if self.n_rows >= self.runner.max_rows:
            self.flush()

    def alone(self, key: Hashable, acts: Float[Tensor, "b t d"], rows: Int[Tensor, " k"]) -> None:
        found = self._predict(self._logits(acts))
        chosen = rows.to(acts.device)
        part = Predictions(found.classes[chosen], found.probabilities[chosen])
        self._keep([key], part, [rows])

    def flush(self) -> None:
        if not self.waiting:
            return
        keys, acts, rows = zip(*self.waiting, strict=True)
        acts = torch.cat(acts)
        logits = self._logits(acts)
        self._keep(keys, self._predict(logits), rows)
        if self.injections:
            change = acts - self.clean[torch.cat(rows).to(acts.device)]
            for name, one in self.injections.items():
                found = self._predict(one.logits(logits, change))
                self._keep([(key, name) for key in keys], found, rows, one.place)
        self.waiting, self.n_rows = [], 0

    def _keep(
        self,
        keys: Sequence[Hashable],
        found: Predictions,
        rows: Sequence[Tensor],
        place: Int[np.ndarray, " n"] | None = None,
    ) -> None:
        """Counts of several jobs, each on its own ``rows`` of the batch.

        ``place``: where each test image is in a tally, −1 if nowhere.
        """
        counts = self.scorer.score(found, torch.cat(list(rows)))
        first = 0
        for key, own in zip(keys, rows, strict=True):
            images = self.batch.images[own.numpy()]
            span = np.arange(first, first + len(own))
            first += len(own)
            if place is not None:
                there = place[images] >= 0
                images, span = place[images[there]], span[there]
            for target, values in zip(self.tallies[key], counts, strict=True):
                target[images] = values[span]
