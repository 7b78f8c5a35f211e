"""Norm statistics of recorded activations: which tokens are normal, and their normalisation.

A small share of tokens at later blocks has norms tens of times the median and would drown
everything else; a token is *normal* when its norm is at most ``max_norm``.

Shape legend: t tokens, d width.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from datamodules.activations.format import (
    STATISTICS,
    Manifest,
    Rows,
    ShardInfo,
    Statistics,
    is_url,
    join,
    statistics_fit,
    write_json,
)
from datamodules.activations.tar import iter_samples
from saev.errors import UserError
from saev.files import check_fields, read_json

BIN_WIDTH = math.log(1.0025)  # a quarter percent; the middle of a bin is off by half of that
SMALLEST_NORM = 1e-12  # a token of zeros counts as this


def token_norms(acts: np.ndarray) -> Float32[Tensor, " t"]:
    """L2 norms, computed in float32 whatever the array's dtype."""
    # through torch: numpy converts float16 ten times slower
    return torch.linalg.vector_norm(torch.from_numpy(acts).float(), dim=1)


def norm_histogram(norms: Float32[Tensor, " t"]) -> Counter[int]:
    """Counts on a logarithmic axis; histograms of parts add up to that of the whole."""
    logs = norms.double().clamp(min=SMALLEST_NORM).log() / BIN_WIDTH
    bins, counts = logs.floor().long().unique(return_counts=True)
    return Counter(dict(zip(bins.tolist(), counts.tolist(), strict=True)))


def median_of(histogram: Mapping[int, int]) -> float:
    """The lower median, to within half a bin (0.125 %); raises ValueError for no tokens."""
    n_left = (sum(histogram.values()) - 1) // 2
    for position in sorted(histogram):
        n_left -= histogram[position]
        if n_left < 0:
            return math.exp((position + 0.5) * BIN_WIDTH)
    raise ValueError("a histogram without tokens has no median")


def check_multiple(max_norm: float | None) -> None:
    """Raises ValueError unless it is None or a positive multiple of the median."""
    if max_norm is not None and not max_norm > 0:
        raise ValueError(
            f"tokens.max_norm={max_norm} must be a positive multiple of the median norm, or null."
        )


def compute_statistics(
    location: str | Path, max_norm: float | None, manifest: Manifest | None = None
) -> Statistics:
    """Statistics for ``max_norm`` times the median norm as the limit of a normal token.

    They come from the manifest when it was recorded with this multiple, otherwise from one pass
    over the training tars, kept beside them (local folders only) for the next time.
    """
    check_multiple(max_norm)
    manifest = manifest or Manifest.read(location)
    if manifest.statistics.max_norm_multiple == max_norm:
        return manifest.statistics
    cache = Path(join(location, f"statistics-{manifest.sha256[:12]}-{max_norm}.json"))
    train = manifest.of_split("train")
    if not is_url(location) and cache.is_file():
        found = read_json(cache, f"delete {cache}")
        check_fields(found, STATISTICS, str(cache), "delete it")
        statistics = Statistics(**found)
        statistics_fit(statistics, train, manifest.width, str(cache))
        return statistics
    statistics = measure(
        location, train, manifest.statistics.median_norm, max_norm, rows=manifest.rows
    )
    if not is_url(location):
        try:
            write_json(cache, json.dumps(dataclasses.asdict(statistics)))
        except UserError:
            return statistics  # a read-only folder: the next run computes them again
    return statistics


def measure(
    location: str | Path,
    shards: Iterable[ShardInfo],
    median_norm: float,
    max_norm_multiple: float | None,
    advance: Callable[[int], object] = lambda n_images: None,
    rows: Rows | None = None,
) -> Statistics:
    """One pass over tars: counts, mean and scale of the normal tokens, summed in float64.

    ``advance`` is told how many images each finished tar held; ``rows`` is what the manifest says of
    its samples. Raises UserError when a value is not finite, when no token is normal or all normal
    tokens are equal, since nothing can be learned from either.
    """
    max_norm = None if max_norm_multiple is None else max_norm_multiple * median_norm
    sums = NormalSums(max_norm)
    n_normal_per_shard: list[int] = []
    for shard in shards:
        before = sums.n_normal
        for sample in iter_samples(location, shard, rows):
            sums.add(sample.acts)
        n_normal_per_shard.append(sums.n_normal - before)
        advance(shard.n_images)
    return sums.statistics(str(location), median_norm, max_norm_multiple, n_normal_per_shard)


def array_statistics(
    pieces: Callable[[], Iterable[np.ndarray]], max_norm_multiple: float | None
) -> Statistics:
    """The same of arrays in memory, read twice: for the median norm, and for the sums.

    Raises UserError where ``measure`` does, and for values that are not finite.
    """
    histogram: Counter[int] = Counter()
    for acts in pieces():
        norms = token_norms(acts)
        if not bool(torch.isfinite(norms).all()):
            raise UserError("activations hold values that are not finite; leave those rows out")
        histogram.update(norm_histogram(norms))
    median_norm = median_of(histogram)
    sums = NormalSums(None if max_norm_multiple is None else max_norm_multiple * median_norm)
    for acts in pieces():
        sums.add(acts)
    return sums.statistics("the array", median_norm, max_norm_multiple, [])


class NormalSums:
    """Running sums over the tokens whose norm is at most ``max_norm`` (None: all), in float64."""

    def __init__(self, max_norm: float | None) -> None:
        self.max_norm = max_norm
        self.n_tokens = self.n_normal = 0
        self._pivot: Tensor | None = None  # sums are around one token: no cancellation afterwards
        self._total, self._squares = torch.zeros(1, dtype=torch.float64), 0.0

    def add(self, found: np.ndarray) -> None:
        """Adds tokens (t, d)."""
        acts = torch.from_numpy(found).float()
        if self.max_norm is not None:
            acts = acts[token_norms(found) <= self.max_norm]
        if self._pivot is None and len(acts):
            self._pivot = acts[0]
        if self._pivot is not None:
            offsets = acts - self._pivot
            self._total = self._total + offsets.sum(0, dtype=torch.float64)
            self._squares += offsets.square().sum(dtype=torch.float64).item()
        self.n_tokens += len(found)
        self.n_normal += len(acts)

    def statistics(
        self,
        where: str,
        median_norm: float,
        max_norm_multiple: float | None,
        n_normal_per_shard: list[int],
    ) -> Statistics:
        """Mean and scale of what was added; ``where`` names it in errors."""
        if self._pivot is None:
            raise UserError(
                f"None of the {self.n_tokens} training tokens in {where} has a norm of at most "
                f"{self.max_norm}; raise tokens.max_norm or set it to null."
            )
        mean = self._total / self.n_normal
        variance = self._squares / self.n_normal - mean.square().sum().item()
        if variance <= 0:
            raise UserError(
                f"All training tokens in {where} are equal, there is nothing to learn from them; "
                "record other tokens or another layer."
            )
        mean = mean + self._pivot
        return Statistics(
            n_tokens=self.n_tokens,
            n_normal=self.n_normal,
            median_norm=median_norm,
            max_norm=self.max_norm,
            max_norm_multiple=max_norm_multiple,
            mean=mean.tolist(),
            scale=math.sqrt(len(mean) / variance),
            n_normal_per_shard=n_normal_per_shard,
        )
