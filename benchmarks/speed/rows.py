"""One measured number, and how such numbers are taken and shown."""

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """A line of ``bench.json``; ``low`` and ``high`` are the extremes of the rounds."""

    what: str
    """step, loader_shuffled, loader_ordered, record, sweep or memory."""
    variant: str
    d: int | None
    d_sae: int | None
    k: int | None
    batch: int | None
    threads: int
    value: float
    unit: str
    ratio_to: str | None = None
    """encoder_product, dense, copies, bare_forward, one_member or a library's name."""
    ratio: float | None = None
    """Of rates, so that more is better; of memory and of a sweep's time, so that less is."""
    low: float | None = None
    high: float | None = None
    rounds: int = 1


@dataclass(frozen=True)
class Shape:
    """Of a dictionary and its batches."""

    d_sae: int
    batch: int
    d: int = 768
    k: int = 32

    @classmethod
    def parse(cls, text: str) -> "Shape":
        """``24576x1024``: latents and tokens of a batch."""
        d_sae, batch = text.split("x")
        return cls(int(d_sae), int(batch))


Rounds = dict[str, list[float]]
"""Name → seconds of each round."""


def interleaved(candidates: Mapping[str, Callable[[], float]], rounds: int) -> Rounds:
    """Each candidate once a round, beginning with another one each time; a round before them warms up."""
    names = list(candidates)
    found: Rounds = {name: [] for name in names}
    for turn in range(-1, rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            seconds = candidates[name]()
            if turn >= 0:
                found[name].append(seconds)
    return found


def rate(found: Rounds, name: str, n: float) -> tuple[float, float, float]:
    """n per second of the median, the slowest and the fastest round."""
    return n / statistics.median(found[name]), n / max(found[name]), n / min(found[name])


def ratio(found: Rounds, limit: str, name: str) -> float:
    """How many times as fast ``name`` is as ``limit``: the median over rounds of what each round says."""
    return statistics.median(a / b for a, b in zip(found[limit], found[name], strict=True))


def timed(work: Callable[[], object]) -> float:
    """Seconds on the clock."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def write(rows: Sequence[Row], path: Path) -> None:
    """``bench.json``: a flat list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n")


def show(rows: Sequence[Row]) -> None:
    """One table on the screen."""
    table = Table("what", "variant", "size", "threads", "value", "of", "ratio")
    for row in rows:
        size = "" if row.d_sae is None else f"{row.d_sae:,} x {row.batch:,}"
        spread = "" if row.low is None else f" ({row.low:,.0f} to {row.high:,.0f})"
        table.add_row(
            row.what,
            row.variant,
            size,
            str(row.threads),
            f"{row.value:,.0f} {row.unit}{spread}",
            row.ratio_to or "",
            "" if row.ratio is None else f"{row.ratio:.2f}",
        )
    Console(width=150).print(table)
