"""Tables of ``docs/planted.md`` from the lines that the benchmarks leave.
``python -m benchmarks.planted_tables outputs/planted.jsonl outputs/planted_pixels.jsonl``
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from benchmarks.planted import MIDDLE

Line = dict[str, Any]


def read_lines(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def share(hits: int, n: int) -> str:
    """A share with its exact 95 % interval (Clopper–Pearson); a dash where nothing was counted."""
    if not n:
        return "–"
    low, high = binomtest(hits, n).proportion_ci()
    return f"{hits / n:.2f} [{low:.2f}, {high:.2f}] ({hits} of {n})"


def between(values: Sequence[float]) -> str:
    """A mean with its interval."""
    return f"{values[0]:.2f} [{values[1]:.2f}, {values[2]:.2f}]"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def recovery_table(lines: Sequence[Line]) -> str:
    """Every dictionary at the middle strength."""
    header = ("dictionary", "seeds", "recovered", "F1", "AUROC", "cosine", "carriers", "split",
              "silent", "absorbed", "EV", "L0")  # fmt: skip
    found = [line for line in lines if line["strength"] == MIDDLE and "cosine" in line]
    return table(header, (
        (line["dictionary"], str(line["seeds"]), between(line["recovered"]),
         *(f"{line[key]:.2f}" for key in ("f1", "auroc", "cosine", "n_carriers", "split")),
         *(f"{100 * line[key]:.1f} %" for key in ("silent", "absorbed")),
         f"{line['explained_variance']:.2f}", f"{line['l0']:.0f}")
        for line in sorted(found, key=lambda line: -line["recovered"][0])
    ))  # fmt: skip


def strength_table(lines: Sequence[Line], names: Sequence[str]) -> str:
    """Share recovered, and F1, of some dictionaries at every strength."""
    strengths = sorted({line["strength"] for line in lines})
    cells = {
        (line["dictionary"], line["strength"]): f"{line['recovered'][0]:.2f} / {line['f1']:.2f}"
        for line in lines
        if "recovered" in line
    }
    rows = ((name, *(cells.get((name, s), "–") for s in strengths)) for name in names)
    return table(("recovered / F1", *map(str, strengths)), rows)


def causes_table(lines: Sequence[Line]) -> str:
    """Precision and recall of verdicts, and naming by effect, summed over seeds."""
    summed: dict[str, Line] = {}
    for line in (line for line in lines if "n_named" in line):
        of = summed.setdefault(line["dictionary"], {"seeds": 0})
        of["seeds"] += 1
        for key in line:
            if key.startswith(("n_", "named_")):
                of[key] = of.get(key, 0) + line[key]
    rows = []
    for name, of in summed.items():
        right, hits = of.get("n_supported_true", 0), of.get("n_supported_other_latent", 0)
        hits += right + of.get("n_supported_false", 0)
        rows.append(
            (name, str(of["seeds"]), share(right, hits), share(right, of.get("n_true", 0)),
             share(of.get("n_supported_false", 0), of.get("n_false", 0)),
             share(of["named_a_carrier"], of["n_named"]), share(of["named_the_best"], of["n_named"]))
        )  # fmt: skip
    header = ("dictionary", "seeds", "precision", "recall", "false ones supported",
              "named by effect", "by the best latent")  # fmt: skip
    return table(header, rows)


def pixels_table(lines: Sequence[Line]) -> str:
    """F1 of every pasted kind."""
    kinds = list(lines[0]["f1_by_kind"])
    rows = (
        (line["dictionary"], between(line["recovered"]), between(line["f1"]),
         f"{line['auroc']:.2f}", *(f"{line['f1_by_kind'][kind]:.2f}" for kind in kinds))
        for line in sorted(lines, key=lambda line: -line["f1"][0])
    )  # fmt: skip
    return table(("dictionary", "recovered", "F1", "AUROC", *kinds), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("planted", type=Path)
    parser.add_argument("pixels", type=Path, nargs="?")
    args = parser.parse_args()
    lines = read_lines(args.planted)
    print(strength_table(lines, ("detector", "topk", "untrained", "random")))
    print(recovery_table(lines))
    print(causes_table(lines))
    if args.pixels is not None:
        print(pixels_table(read_lines(args.pixels)))


if __name__ == "__main__":
    main()
