"""Table of metrics × dictionaries with intervals: which metrics separate trained from random."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from saev.evaluation.baselines import sums as measures
from saev.stats.bootstrap import image_weights, interval

if TYPE_CHECKING:
    import pandas as pd

Measure = Callable[[measures.ImageSums, Float[np.ndarray, " b"]], float]


class Metric(NamedTuple):
    """A row of the table."""

    key: str
    title: str
    sign: int
    """1: more is better; −1: less is better; 0: set by the user and no quality."""
    resampled: bool = True
    """Whether a bootstrap over images tells its error. It does not for shares of latents that cross
    a threshold: a sample with replacement holds 63 % of the images, sees more dead latents and
    noisier rates, and its percentiles can exclude the estimate itself."""
    is_recentred: bool = False
    """Whether draws are moved so that their median is the value: where the same pushes all of them to
    one side and leaves their spread alone."""


METRICS = (
    Metric("explained_variance", "explained variance", 1),
    Metric("nmse", "NMSE", -1),
    Metric("l0", "L0", 0),
    Metric("dead_fraction", "dead latents", -1, resampled=False),
    Metric("dense_fraction", "dense latents", -1, resampled=False),
    Metric("kl_recovered", "KL recovered", 1),
    Metric("agreement", "agreement with the clean model", 1),
    Metric("monosemanticity", "monosemanticity, corrected", 1, is_recentred=True),
    Metric("concept_auroc", "concept AUROC, best single latent", 1),
)

PLAIN: Mapping[str, Measure] = {
    "explained_variance": measures.explained_variance,
    "nmse": measures.nmse,
    "l0": measures.l0,
    "dead_fraction": measures.dead,
    "dense_fraction": measures.dense,
    "kl_recovered": measures.kl_recovered,
    "agreement": measures.agreement,
}
"""Metrics of the sums alone."""


class Cell(NamedTuple):
    """One metric of one dictionary."""

    value: float
    drawn_r: Float[np.ndarray, " r"]
    """The same on every bootstrap sample of the images, the same samples for every dictionary; empty
    where the metric is not resampled."""

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, percentiles; nan for a metric that is not resampled."""
        return interval(self.drawn_r)


def weights(n_images: int, n_samples: int, seed: int) -> Float[np.ndarray, "r b"]:
    """Row 0 counts every image once; each other row, how often a bootstrap sample holds it."""
    drawn = image_weights(n_images, n_samples, np.random.default_rng([seed, n_images]))
    return np.concatenate([np.ones((1, n_images)), drawn])


def cell(key: str, values_r: Float[np.ndarray, " r"]) -> Cell:
    """Of a metric, from its values on all rows of ``weights``."""
    value, drawn_r = float(values_r[0]), values_r[1:]
    is_recentred = any(one.is_recentred for one in METRICS if one.key == key)
    return Cell(value, recentred(value, drawn_r) if is_recentred else drawn_r)


def recentred(value: float, drawn_r: Float[np.ndarray, " r"]) -> Float[np.ndarray, " r"]:
    """Draws with the value as their median; nan stays."""
    if np.isnan(drawn_r).all():
        return drawn_r
    return drawn_r - np.nanmedian(drawn_r) + value


def plain_cells(
    sums: Mapping[str, measures.ImageSums], weight_rb: Float[np.ndarray, "r b"], keys: Sequence[str]
) -> dict[str, dict[str, Cell]]:
    """Metrics of ``PLAIN`` for every dictionary; those not resampled have a value alone."""
    rows = {metric.key: weight_rb if metric.resampled else weight_rb[:1] for metric in METRICS}
    return {
        key: {
            name: cell(key, np.array([PLAIN[key](one, w) for w in rows[key]]))
            for name, one in sums.items()
        }
        for key in keys
    }


class ControlComparison(NamedTuple):
    """Whether a metric tells the dictionary from the random controls."""

    separates: bool | None
    """None: the metric is no quality, was not measured or resampled, or there is no random control."""
    against: dict[str, bool]
    """Name of a random control → whether the dictionary is better than it beyond chance."""


def verdict(sae: Cell, controls: Mapping[str, Cell], sign: int) -> ControlComparison:
    """Yes when the dictionary is better than every random control beyond the chance of images.

    Better: the 95 % bootstrap interval of the difference, dictionary minus control on the same
    samples of images, lies above 0 in the metric's good direction. A metric on which a random
    control does as well, or better, does not tell that training found anything.
    """
    if sign == 0 or np.isnan(sae.value) or not len(sae.drawn_r):
        return ControlComparison(None, {})
    against = {
        name: interval(sign * (sae.drawn_r - control.drawn_r))[0] > 0
        for name, control in controls.items() if not np.isnan(control.value)
    }  # fmt: skip
    return ControlComparison(all(against.values()) if against else None, against)


def frame(
    cells: Mapping[str, Mapping[str, Cell]],
    verdicts: Mapping[str, ControlComparison],
    names: Sequence[str],
) -> "pd.DataFrame":
    """One row per metric and dictionary, in the order of the table."""
    import pandas as pd

    rows = []
    for metric in METRICS:
        if metric.key not in cells:
            continue
        for name in names:
            one = cells[metric.key][name]
            low, high = one.interval
            rows.append({
                "metric": metric.key, "dictionary": name, "value": one.value, "low": low,
                "high": high, "separates": verdicts[metric.key].separates,
                "sae_is_better": verdicts[metric.key].against.get(name),
            })  # fmt: skip
    return pd.DataFrame(rows)
