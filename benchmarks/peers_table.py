"""Tables of docs/tables/libraries.md, from a folder that ``benchmarks.peers_compared`` filled.

    python -m benchmarks.peers_table DIR > docs/tables/libraries.md

A cell whose step has left nothing is a dash.
"""

import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from benchmarks.peers_compared import BENCHMARKED, OURS, PEERS
from saev.evaluation.visaebench.seven_numbers import SEVEN
from saev.intervention.judge.dose_curves import LEVELS

TITLES = {
    OURS: "**saev**, TopK + AuxK",
    "saelens": "SAELens",
    "dictionary_learning": "dictionary_learning",
    "sparsify": "sparsify",
    "overcomplete": "overcomplete",
    "untrained": "untrained",
    "pca": "PCA, both signs",
}
COLUMNS = (
    "explained variance", "L0", "dead, %", "KL recovered", "concept AUROC", "AUROC in the atlas",
    "else changed, %", "classes reached", "seconds of training",
)  # fmt: skip
HALF = 100 * LEVELS[1]
OTHERS = {"untrained": "untrained", "covariance": "random, shaped like the data", "raw": "raw units",
          "pca": "PCA"}  # fmt: skip
"""Dictionaries that learned nothing, by their names in the benchmark's tables."""
RIVAL_ARMS = {
    "random_latents_same_length": "random latents", "untrained_same_length": "untrained ones",
    "diffmean": "DiffMean", "linear_probe": "a probe",
}  # fmt: skip
"""Edits of the same length at every token."""
IMAGES = {
    "caltech": "Caltech-26",
    "imagenet": "One image of each ImageNet class, in twelve groups",
    "caltech_32px": "Caltech-26 at 32 × 32 pixels",
}


def number(value: float, digits: int = 3) -> str:
    """A dash where there is none."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def with_interval(value: float, low: float, high: float, digits: int = 3) -> str:
    """``0.790 [0.780, 0.799]``."""
    if math.isnan(low) or math.isnan(value):
        return number(value, digits)
    return f"{number(value, digits)} [{number(low, digits)}, {number(high, digits)}]"


class Findings:
    """What the steps left, dictionary by dictionary."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        table = folder / "evaluate" / "baselines" / "baselines.csv"
        self.evaluated = pd.read_csv(table) if table.is_file() else None

    def metric(self, name: str, key: str, digits: int = 3, times: float = 1.0) -> str:
        """A cell of the table of ``saev.evaluate``, in which the first dictionary is ``sae``."""
        if self.evaluated is None:
            return "–"
        column = "sae" if name == OURS else name
        t = self.evaluated
        rows = t[(t["metric"] == key) & (t["dictionary"] == column)]
        if not len(rows):
            return "–"
        value, low, high = (times * float(rows.iloc[0][one]) for one in ("value", "low", "high"))
        if key == "l0":  # set, and the same on every draw
            return number(value, digits)
        return with_interval(value, low, high, digits)

    def described(self, name: str) -> str:
        """Concept AUROC on the test split, as the atlas has it."""
        found = self._json(f"{name}/describe/metrics.json")
        keys = [key for key in found if key.endswith("/class/auroc_mean")]
        return number(found[keys[0]]) if keys else "–"

    def selectivity(self, name: str) -> tuple[str, str]:
        """What else changes where half of the target has changed, and in how many classes it does."""
        table = self.folder / name / "intervene" / "report" / "mean_tradeoff.csv"
        if not table.is_file():
            return "–", "–"
        t = pd.read_csv(table)
        row = t[(t["arm"] == "selected") & (t["level"] == HALF)].iloc[0]
        found = [float(row[f"other_change{end}"]) for end in ("", "_low", "_high")]
        n_reached, n_missing = int(row["n_concepts"]), int(row["n_missing"])
        return with_interval(*found, digits=1), f"{n_reached} of {n_reached + n_missing}"

    def seconds(self, name: str) -> str:
        """Of one thread, as the processor counts them."""
        found = self._json(f"{name}/trained.json")
        return number(found.get("processor_seconds", math.nan), 0)

    def row(self, name: str) -> list[str]:
        """The cells of ``COLUMNS``."""
        return [
            self.metric(name, "explained_variance"), self.metric(name, "l0", 1),
            self.metric(name, "dead_fraction", 1, 100), self.metric(name, "kl_recovered"),
            self.metric(name, "concept_auroc"), self.described(name), *self.selectivity(name),
            self.seconds(name),
        ]  # fmt: skip

    def _json(self, path: str) -> dict[str, float]:
        file = self.folder / path
        return json.loads(file.read_text()) if file.is_file() else {}


def libraries_table(folder: Path) -> Iterator[str]:
    """A row per dictionary."""
    found = Findings(folder)
    yield f"| dictionary | {' | '.join(COLUMNS)} |"
    yield "|---" * (len(COLUMNS) + 1) + "|"
    for name in PEERS:
        yield f"| {TITLES[name]} | {' | '.join(found.row(name))} |"


def imports_table(folder: Path) -> Iterator[str]:
    """Whether what was imported reconstructs what its library does."""
    yield "| dictionary | explained variance, by the library | by ours, from its file | distance |"
    yield "|---|---|---|---|"
    for name in PEERS:
        file = folder / name / "imported.json"
        if file.is_file():
            found = json.loads(file.read_text())
            shares = [number(found[f"explained_variance_{by}"], 5) for by in ("theirs", "ours")]
            yield f"| {TITLES[name]} | {' | '.join(shares)} | {found['distance']:.1e} |"


def edits_table(folder: Path) -> Iterator[str]:
    """What else changes at half of the target with each dictionary's latents and with its rivals."""
    arms = ("selected", *RIVAL_ARMS)
    yield f"| dictionary | its latents | minus {' | minus '.join(RIVAL_ARMS.values())} |"
    yield "|---" * (len(arms) + 1) + "|"
    for name in PEERS:
        table = folder / name / "intervene" / "report" / "mean_tradeoff.csv"
        if not table.is_file():
            continue
        t = pd.read_csv(table)
        rows = t[t["level"] == HALF].set_index("arm")
        cells = []
        for arm in arms:
            kind = "other_change" if arm == "selected" else "difference"
            if arm not in rows.index:
                cells.append("–")
                continue
            parts = [float(rows.at[arm, f"{kind}{end}"]) for end in ("", "_low", "_high")]  # type: ignore[arg-type]
            cells.append(with_interval(*parts, digits=1))
        yield f"| {TITLES[name]} | {' | '.join(cells)} |"


def benchmark_tables(folder: Path, names: Sequence[str] = BENCHMARKED) -> Iterator[str]:
    """The seven numbers on every set of images; * where a dictionary separates from its own untrained
    one."""
    for images, title in IMAGES.items():
        tables = {
            name: pd.read_csv(file)
            for name in names
            if (file := folder / f"visaebench_{images}/visaebench/{name}/table.csv").is_file()
        }
        if not tables:
            continue
        yield f"\n### {title}\n"
        of = next(iter(tables))
        yield (
            "| | "
            + " | ".join([*(TITLES[n].split(",")[0].strip("*") for n in tables), *OTHERS.values()])
            + " | by chance |"
        )
        yield "|---" * (len(tables) + len(OTHERS) + 2) + "|"
        for metric in SEVEN:
            cells = [_own(table, metric.key) for table in tables.values()]
            cells += [number(_value(tables[of], metric.key, arm, "value")) for arm in OTHERS]
            cells.append(number(_value(tables[of], metric.key, "sae", "null")))
            better = "more" if metric.sign > 0 else "less"
            yield f"| {metric.number} `{metric.key}`, {better} | {' | '.join(cells)} |"


def _own(table: pd.DataFrame, key: str) -> str:
    value = number(_value(table, key, "sae", "value"))
    rows = table[(table["metric"] == key) & (table["dictionary"] == "sae")]
    return value + (" *" if str(rows.iloc[0]["separates"]) == "True" else "")


def _value(table: pd.DataFrame, key: str, dictionary: str, column: str) -> float:
    rows = table[(table["metric"] == key) & (table["dictionary"] == dictionary)]
    return float(rows.iloc[0][column]) if len(rows) else math.nan


def page(folder: Path) -> str:
    """The whole file."""
    sizes = json.loads((folder / "sizes.json").read_text())
    lines = [
        "# Tables of the comparison of libraries\n",
        "Written by `python -m benchmarks.peers_table`; [libraries.md](../libraries.md) says what was "
        "run and what it means.",
        f"{sizes['d_sae']:,} latents, k = {sizes['k']}, {sizes['steps']} steps of {sizes['batch']:,} "
        "tokens; brackets are 95 % intervals over images.\n",
        "## Every command\n",
        *libraries_table(folder),
        "\n## Imports\n",
        *imports_table(folder),
        "\n## Edits\n",
        *edits_table(folder),
        "\n## ViSAEBench\n",
        "\\* separates the dictionary from its own untrained one; the columns that learned nothing are "
        "those beside the first dictionary.",
        *benchmark_tables(folder),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("give the folder that benchmarks.peers_compared filled")
    print(page(Path(sys.argv[1])))
