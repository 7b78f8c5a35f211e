"""Tally of an edited forward pass: changed predictions per image and class.

A unit is what a head predicts for: an image, or a patch. Its base class is the class whose loss or
survival is measured: the label for images, the clean prediction for patches.
Suffixes: b or n images, u units, c classes (all groups of a head side by side), r draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor


@dataclass(frozen=True)
class Groups:
    """Which columns of a head's logits compete with each other."""

    spans: tuple[tuple[int, int], ...]
    """First column and the column after the last, per group."""
    backgrounds: frozenset[int] = frozenset()
    """Columns that mean "none of them": no concepts, and no peers of one."""

    def of(self, label: int) -> int:
        return next(g for g, (first, last) in enumerate(self.spans) if first <= label < last)

    def peers(self, label: int) -> list[int]:
        """The other concepts of the same group."""
        first, last = self.spans[self.of(label)]
        return [c for c in range(first, last) if c != label and c not in self.backgrounds]


Numbers = np.ndarray | np.floating


class Predictions(NamedTuple):
    """A head's answer for a batch."""

    classes: Int[Tensor, "b u g"]
    """Column predicted, per group."""
    probabilities: Float[Tensor, "b u c"]
    """Softmax within each group."""


def predict(logits: Float[Tensor, "b u c"], groups: Groups) -> Predictions:
    """Classes and probabilities per group of columns."""
    classes, probabilities = [], []
    for first, last in groups.spans:
        part = logits[..., first:last].float()
        classes.append(part.argmax(-1) + first)
        probabilities.append(part.softmax(-1))
    return Predictions(torch.stack(classes, -1), torch.cat(probabilities, -1))


class Tally(NamedTuple):
    """Counts per image and class after one edit, or a stack of them; divided by nothing, so that
    images add up."""

    changed: Float[np.ndarray, "*r n c"]
    """Units of base class c whose prediction is no longer what it was: those that left it, were
    repaired, or moved from one error to another."""
    left: Float[np.ndarray, "*r n c"]
    """Those that were predicted as c."""
    repaired: Float[np.ndarray, "*r n c"]
    """Those that were not and are now."""
    arrived: Float[np.ndarray, "*r n c"]
    """Units predicted as c now and not before."""
    correct: Float[np.ndarray, "*r n c"]
    """Units labelled c that are predicted as c."""
    probability: Float[np.ndarray, "*r n c"]
    """Sum of the probability of c over the units of base class c."""
    elsewhere: Float[np.ndarray, "*r n c"]
    """Sum of the probability of c over the units of its group's other base classes."""

    @classmethod
    def empty(cls, n_images: int, n_classes: int) -> "Tally":
        """NaN everywhere: an image stays so until it was run."""
        return cls(*(np.full((n_images, n_classes), np.nan, np.float32) for _ in cls._fields))

    def take(self, images: Int[np.ndarray, " k"]) -> "Tally":
        return Tally(*(values[images] for values in self))

    @staticmethod
    def mean(tallies: Sequence["Tally"]) -> "Tally":
        """Of several edits."""
        if len(tallies) == 1:
            return tallies[0]
        return Tally(*(np.mean(column, 0) for column in zip(*tallies, strict=True)))

    @staticmethod
    def stack(tallies: Sequence["Tally"], images: Int[np.ndarray, " k"]) -> "Tally":
        """Several edits on some images: arrays (edits, images, classes)."""
        columns = zip(*tallies, strict=True)
        return Tally(*(np.stack([values[images] for values in column]) for column in columns))


class Clean(NamedTuple):
    """The untouched model on the same images, and how many units there are."""

    tally: Tally
    n_base: Float[np.ndarray, "n c"]
    """Units of each base class."""
    n_right: Float[np.ndarray, "n c"]
    """Those of them that are predicted as it: all of them where the prediction is the base."""
    n_labelled: Float[np.ndarray, "n c"]
    """Units of each label."""
    n_group: Float[np.ndarray, "n c"]
    """Units of any base class of the group that c is in."""

    def take(self, images: Int[np.ndarray, " k"]) -> "Clean":
        tally, *counts = self
        return Clean(tally.take(images), *(values[images] for values in counts))


class Scorer:
    """Turns predictions into counts, against one batch's clean predictions, bases and labels."""

    def __init__(
        self,
        clean: Predictions,
        base: Int[Tensor, "b u g"],
        labels: Int[Tensor, "b u g"],
        groups: Groups,
    ) -> None:
        n_classes = groups.spans[-1][1]
        self.clean = clean
        self.base_bugc = torch.arange(n_classes, device=base.device) == base[..., None]
        self.label_bugc = torch.arange(n_classes, device=base.device) == labels[..., None]
        self.base_buc = self.base_bugc.any(2)
        is_clean_bugc = torch.arange(n_classes, device=base.device) == clean.classes[..., None]
        self.right_bugc = self.base_bugc & is_clean_bugc
        known_bug = base >= 0
        self.group_c = torch.tensor([groups.of(c) for c in range(n_classes)], device=base.device)
        self.known_buc = known_bug[..., self.group_c]
        self.columns = torch.arange(n_classes, device=base.device)

    def score(self, found: Predictions, rows: Int[Tensor, " k"] | None = None) -> list[np.ndarray]:
        """The arrays of a :class:`Tally`, for the images ``rows`` of the batch (None: all)."""
        rows = torch.arange(len(self.known_buc)) if rows is None else rows
        rows = rows.to(self.known_buc.device)
        clean_bug = self.clean.classes[rows]
        moved_bug = found.classes != clean_bug
        found_bugc = found.classes[..., None] == self.columns
        is_new_bugc = found_bugc & moved_bug[..., None]
        right_bugc = found_bugc & self.label_bugc[rows]
        changed_bugc = self.base_bugc[rows] & moved_bug[..., None]
        base_buc = self.base_buc[rows]
        others_buc = self.known_buc[rows] & ~base_buc
        sums = (
            changed_bugc.any(2).sum(1),
            (changed_bugc & self.right_bugc[rows]).any(2).sum(1),
            (changed_bugc & found_bugc).any(2).sum(1),
            (is_new_bugc.any(2) & others_buc).sum(1),
            right_bugc.any(2).sum(1),
            (found.probabilities * base_buc).sum(1),
            (found.probabilities * others_buc).sum(1),
        )
        return list(torch.stack([values.float() for values in sums]).cpu().numpy())

    def units(self) -> list[np.ndarray]:
        """The counts of a :class:`Clean`, in its order."""
        counts = (self.base_buc, self.right_bugc.any(2), self.label_bugc.any(2), self.known_buc)
        return [values.sum(1).float().cpu().numpy() for values in counts]


@dataclass(frozen=True)
class Question:
    """What is asked of a tally: which class, which metric, which way it should go."""

    label: int
    metric: str
    direction: str
    groups: Groups
    peers: tuple[int, ...]
    """Classes that a selective metric compares with, each weighing the same; rare ones would be
    noise and are left out by whoever asks."""

    def parts(self, tally: Tally, clean: Clean) -> "EffectParts":
        """What the effect is a ratio of."""
        c, peers = self.label, list(self.peers)
        columns = peers if self.metric == "selective_change" else []
        if self.direction == "increase":
            others = clean.n_group - clean.n_base
            if self.metric == "probability":
                rise = tally.elsewhere[..., c] - clean.tally.elsewhere[:, c]
                return EffectParts(rise, others[:, c], tally.changed[..., []], others[:, []])
            arrived = tally.arrived
            return EffectParts(
                arrived[..., c], others[:, c], arrived[..., columns], others[:, columns]
            )
        n, none = clean.n_right, tally.left[..., []]
        if self.metric == "probability":
            fall = clean.tally.probability[:, c] - tally.probability[..., c]
            return EffectParts(fall, clean.n_base[:, c], none, n[:, []])
        if self.metric == "accuracy":
            fall = clean.tally.correct[:, c] - tally.correct[..., c]
            return EffectParts(fall, clean.n_labelled[:, c], none, n[:, []])
        return EffectParts(tally.left[..., c], n[:, c], tally.left[..., columns], n[:, columns])

    def trade(self, tally: Tally, clean: Clean) -> "TradeParts":
        """What is gained and what is paid for it: target change and the change of everything else.

        With direction "increase" the target are the units of other classes that arrive, and those
        that move elsewhere are the price.
        """
        c = self.label
        first, last = self.groups.spans[self.groups.of(c)]
        others = [k for k in range(first, last) if k != c]
        other, n_other = tally.changed[..., others].sum(-1), clean.n_base[:, others].sum(-1)
        if self.direction == "increase":
            arrived = tally.arrived[..., c]
            return TradeParts(arrived, n_other, other - arrived, n_other)
        return TradeParts(tally.left[..., c], clean.n_right[:, c], other, n_other)

    def effects(self, tallies: Tally, clean: Clean) -> Float[np.ndarray, " r"]:
        """The effect of each of a stack of edits over all images: units count, not images."""
        hit, n, peer_hit, peer_n = self.parts(tallies, clean)
        effects = _ratio(hit.sum(-1), n.sum(-1))
        if peer_n.shape[-1]:
            effects = effects - _mean(_ratio(peer_hit.sum(-2), peer_n.sum(-2)))
        return effects

    def effect(self, tally: Tally, clean: Clean) -> float:
        """The same for a single edit."""
        return float(self.effects(Tally(*(values[None] for values in tally)), clean)[0])

    def per_image(self, tally: Tally, clean: Clean) -> Float[np.ndarray, "*r n"]:
        """The effect on each image, of one edit or a stack; NaN where the class has no unit."""
        hit, n, peer_hit, peer_n = self.parts(tally, clean)
        effects = _ratio(hit, n)
        if peer_n.shape[-1]:
            effects = effects - _mean(_ratio(peer_hit, peer_n))
        return effects

    def resampled(
        self, tally: Tally, clean: Clean, weights_rn: Shaped[np.ndarray, "r n"]
    ) -> Float[np.ndarray, " r"]:
        """The effect where image n counts so many times; NaN where none of them shows the class."""
        hit, n, peer_hit, peer_n = self.parts(tally, clean)
        effects = _ratio(weights_rn @ hit, weights_rn @ n)
        if peer_n.shape[-1]:
            effects = effects - _mean(_ratio(weights_rn @ peer_hit, weights_rn @ peer_n))
        return effects


class EffectParts(NamedTuple):
    """Numerators and denominators of an effect, per image."""

    hit: Float[np.ndarray, "*r n"]
    n: Float[np.ndarray, " n"]
    peer_hit: Float[np.ndarray, "*r n k"]
    """Of the peers; none of them unless the metric is selective."""
    peer_n: Float[np.ndarray, "n k"]


class TradeParts(NamedTuple):
    """Numerators and denominators of target and other change, per image."""

    target: Float[np.ndarray, "*r n"]
    n_target: Float[np.ndarray, " n"]
    other: Float[np.ndarray, "*r n"]
    n_other: Float[np.ndarray, " n"]


def other_change(
    tally: Tally, clean: Clean, label: int, groups: Groups, images: Sequence[int] | None = None
) -> float:
    """Share of the units of other base classes, the background included, whose prediction changes."""
    first, last = groups.spans[groups.of(label)]
    others = [c for c in range(first, last) if c != label]
    rows = slice(None) if images is None else list(images)
    return float(_ratio(tally.changed[rows][:, others].sum(), clean.n_base[rows][:, others].sum()))


def _ratio(hit: Numbers, n: Numbers) -> np.ndarray:
    hits, units = np.broadcast_arrays(np.asarray(hit, np.float64), np.asarray(n, np.float64))
    return np.divide(hits, units, out=np.full(hits.shape, np.nan), where=units > 0)


def _mean(values_rc: np.ndarray) -> Numbers:
    """Mean over classes that are there; 0 where none is."""
    there = ~np.isnan(values_rc)
    total = np.where(there, values_rc, 0.0).sum(-1)
    return total / np.maximum(there.sum(-1), 1)
