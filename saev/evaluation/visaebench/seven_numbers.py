"""The seven numbers of one dictionary, each with its null and its draws, or why it was not measured.

Suffixes: n images, r bootstrap draws.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from saev.evaluation.baselines.cells import Cell, recentred, weights
from saev.evaluation.visaebench.image_features import BenchmarkUnits, ImageFeatures
from saev.evaluation.visaebench.settings import BenchmarkSettings
from saev.metrics.visaebench.absorption import absorption, absorption_null
from saev.metrics.visaebench.morans_score import morans_score
from saev.metrics.visaebench.probe_ratio import probe_ratio, probe_ratio_null
from saev.metrics.visaebench.sparse_probing_curve import sparse_probing_curve, sparse_probing_null
from saev.metrics.visaebench.top_image_similarity import top_image_similarity
from saev.metrics.visaebench.transfer_score import transfer_score


class BenchmarkMetric(NamedTuple):
    """A row of the table."""

    key: str
    number: str
    """In the benchmark."""
    title: str
    sign: int
    """1: more is better; −1: less is better."""
    is_recentred: bool = False
    """Whether draws are moved so that their median is the value: where images that count twice, and
    others that are missing, push them all to one side."""


SEVEN = (
    BenchmarkMetric("spatial_coherence", "M1", "spatial coherence, Moran's I", 1),
    BenchmarkMetric("fvu", "M2", "unexplained variance", -1),
    BenchmarkMetric("probe_ratio", "M3", "accuracy kept by a probe", 1),
    BenchmarkMetric("sparse_probing", "M4", "sparse probing, area", 1),
    BenchmarkMetric("monosemanticity", "M5", "likeness of strongest images", 1),
    BenchmarkMetric("transfer", "M6", "transfer to other images", 1, is_recentred=True),
    BenchmarkMetric("absorption", "M7", "absorption by siblings", -1, is_recentred=True),
)


class Number(NamedTuple):
    """One of the seven of one dictionary."""

    cell: Cell
    null: float
    """What it is by chance."""
    reason: str | None
    """Why there is no value."""
    details: dict[str, Any]
    """What the value is made of: plain data."""


class _Found(NamedTuple):
    value: float
    drawn_r: Float[np.ndarray, " r"]
    null: float
    details: dict[str, Any]


@dataclass(frozen=True)
class BenchmarkImages:
    """What all dictionaries are measured on."""

    settings: BenchmarkSettings
    own: ImageFeatures
    embedding_ne: Float[np.ndarray, "n e"]
    """By the judge of M5."""
    other: ImageFeatures | None
    """Images of another kind, for M6."""
    groups: Mapping[str, list[int]] | None
    """Of sibling classes, for M7."""
    lacking: Mapping[str, str] = field(default_factory=dict)
    """Key of a number → why it cannot be measured here."""

    @property
    def units(self) -> BenchmarkUnits:
        return self.own.units

    def draws(self, features: ImageFeatures) -> Float[np.ndarray, "r n"]:
        """Weights of images, the same for every dictionary."""
        n = len(features.tokens_n)
        return weights(n, self.settings.n_bootstrap, self.settings.seed)[1:]


def seven_numbers(images: BenchmarkImages, arm: str) -> dict[str, Number]:
    """All seven of a dictionary; one that fails says why and leaves the others alone."""
    return {metric.key: _number(metric, _MEASURES[metric.key], images, arm) for metric in SEVEN}


def _number(
    metric: BenchmarkMetric, measure: Callable[..., _Found], images: BenchmarkImages, arm: str
) -> Number:
    if metric.key in images.lacking:
        return _without(images.lacking[metric.key])
    rng = np.random.default_rng([images.settings.seed, int(metric.number[1:])])
    try:
        found = measure(images, arm, rng)
    except (ValueError, ArithmeticError, RuntimeError) as error:
        return _without(str(error).strip().partition("\n")[0] or type(error).__name__)
    if np.isnan(found.value):
        return _without(_EMPTY[metric.key].format(images.settings.min_images))
    drawn_r = found.drawn_r
    if metric.is_recentred:
        drawn_r = recentred(found.value, drawn_r).clip(0, 1)  # both range over it
    return Number(Cell(found.value, drawn_r), found.null, None, found.details)


def _without(reason: str) -> Number:
    return Number(Cell(float("nan"), np.empty(0)), float("nan"), reason, {})


def _spatial_coherence(images: BenchmarkImages, arm: str, rng: np.random.Generator) -> _Found:
    pairs = images.own.arms[arm].patches
    assert pairs is not None
    score = morans_score(pairs, images.own.n_patches, min_images=images.settings.min_images)
    details = {"n_latents": len(score.scored_k), "not_localized": score.not_localized}
    return _Found(score.value, score.resampled(images.draws(images.own)), score.chance, details)


def _fvu(images: BenchmarkImages, arm: str, rng: np.random.Generator) -> _Found:
    found = images.own.unexplained(arm, images.units)
    null = images.own.unexplained(arm, images.units, shuffled=True)
    details = {"documented": found.documented}
    return _Found(found.value, found.resampled(images.draws(images.own)), null.value, details)


def _probe_ratio(images: BenchmarkImages, arm: str, rng: np.random.Generator) -> _Found:
    x_nd, label_n = images.own.pooled(images.units), images.own.label_n
    x_hat_nd = images.own.pooled(images.units, arm)
    assert label_n is not None
    found = probe_ratio(x_nd, x_hat_nd, _dense(label_n))
    null = probe_ratio_null(x_nd, x_hat_nd, _dense(label_n), rng)
    on_x, on_x_hat = found.accuracies
    details = {"on_x": on_x, "on_x_hat": on_x_hat, "converged": found.converged}
    details["n_test"] = len(found.test_m)
    weight_rm = images.draws(images.own)[:, found.test_m]
    return _Found(found.value, found.resampled(weight_rm), null.value, details)


def _sparse_probing(images: BenchmarkImages, arm: str, rng: np.random.Generator) -> _Found:
    codes_ns, label_n = images.own.arms[arm].codes_ns, images.own.label_n
    assert label_n is not None
    ks = images.settings.ks
    found = sparse_probing_curve(codes_ns, _dense(label_n), ks=ks)
    null = sparse_probing_null(codes_ns, _dense(label_n), rng, ks=ks)
    accuracies = {str(k): float(share) for k, share in zip(found.ks, found.accuracy_k, strict=True)}
    details = {
        "accuracy": accuracies,
        "most_frequent": found.most_frequent,
        "converged": bool(found.converged_k.all()),
        "n_test": len(found.test_m),
    }
    weight_rm = images.draws(images.own)[:, found.test_m]
    return _Found(found.value, found.resampled(weight_rm), null.value, details)


def _monosemanticity(images: BenchmarkImages, arm: str, rng: np.random.Generator) -> _Found:
    found = top_image_similarity(images.own.arms[arm].codes_ns, images.embedding_ne)
    if not len(found.latents_k):
        return _Found(float("nan"), np.empty(0), found.chance, {})
    drawn_r = found.resampled(images.draws(images.own))
    return _Found(found.value, drawn_r, found.chance, {"n_latents": len(found.latents_k)})


def _transfer(images: BenchmarkImages, arm: str, rng: np.random.Generator) -> _Found:
    other = images.other
    assert other is not None and other.label_n is not None
    own_fires_s = np.asarray((images.own.arms[arm].codes_ns > 0).any(0))
    unexplained = other.unexplained(arm, images.units)
    codes_ns, label_n = other.arms[arm].codes_ns, _dense(other.label_n)
    found = transfer_score(own_fires_s, codes_ns, unexplained, label_n)
    details = {"parts": found.parts._asdict(), "null_parts": found.chance._asdict()}
    drawn_r = found.resampled(images.draws(other))
    return _Found(found.value, drawn_r, float(found.chance.average), details)


def _absorption(images: BenchmarkImages, arm: str, rng: np.random.Generator) -> _Found:
    codes_ns, label_n = images.own.arms[arm].codes_ns, images.own.label_n
    assert label_n is not None and images.groups is not None
    found = absorption(codes_ns, label_n, images.groups)
    if not found.siblings:
        return _Found(float("nan"), np.empty(0), float("nan"), {})
    null = absorption_null(codes_ns, label_n, images.groups, rng)
    drawn_r = found.resampled(images.draws(images.own))
    return _Found(found.value, drawn_r, null.value, {"n_pairs": len(found.siblings)})


def _dense(label_n: np.ndarray) -> np.ndarray:
    """Classes counted from 0 without gaps: those without an image would keep the benchmark's split
    from being drawn within classes."""
    return np.unique(label_n, return_inverse=True)[1]


_MEASURES: dict[str, Callable[..., _Found]] = {
    "spatial_coherence": _spatial_coherence,
    "fvu": _fvu,
    "probe_ratio": _probe_ratio,
    "sparse_probing": _sparse_probing,
    "monosemanticity": _monosemanticity,
    "transfer": _transfer,
    "absorption": _absorption,
}
_EMPTY = {
    "spatial_coherence": "no latent fires on five to nine tenths of the patches of {} images "
    "(visaebench.min_images)",
    "fvu": "the activations do not vary",
    "probe_ratio": "the probe is right on no test image",
    "sparse_probing": "no test image has weight",
    "monosemanticity": "no latent fires on two images",
    "transfer": "no image has weight",
    "absorption": "no group has three classes and ten images, three of the class and three of others",
}
"""Why a mean is over nothing."""
