"""For how many attribute values of the procedural scenes an atlas has a latent, by known truth.

    python -m benchmarks.scenes outputs/runs/describe/…

Reads the tables of ``+experiment=describe_scenes``. An object's values (shape, colour, texture,
size, column, row) hold on its patches; background and count hold for the whole image. The latent is
chosen on the discovery split and its AUROC is of the test split. Beside it stands what a perfect
latent for "any object" would score on the same patches, which knows nothing of the value: AUROC
1 − ½·(o − f)/(1 − f), with o the share of patches on objects and f that of the value. The last
column is the latent chosen for the main object's value on whole images, whose companions light it
up too.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd

ENOUGH = 0.9
OF_IMAGES = ("background", "count")


def judged(folder: Path) -> pd.DataFrame:
    """One row per attribute value: where it is judged, AUROC, q, the value-blind control, AUROC on
    images."""
    table = pd.read_parquet(folder / "concepts.parquet")
    best = table[(table["split"] == "test") & (table["rank_auroc"] == 0)]
    on_images = best[best["kind"] == "attribute"].set_index("concept")
    on_patches = best[best["kind"] == "mask"].set_index("concept")
    objects = on_patches[on_patches.index.str.startswith("shape=")]["n_positive"].sum()
    rows = []
    for value in sorted(on_images.index):
        of_image = value.split("=")[0] in OF_IMAGES
        row = (on_images if of_image else on_patches).loc[value]
        o, f = objects / row["n_rows"], row["n_positive"] / row["n_rows"]
        rows.append(
            {
                "value": value, "on": "images" if of_image else "patches", "auroc": row["auroc"],
                "q": row["q"], "any_object": None if of_image else 1 - (o - f) / (1 - f) / 2,
                "auroc_of_images": on_images.loc[value, "auroc"],
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def coverage(rows: pd.DataFrame, column: str = "auroc") -> float:
    """Share of the values with a latent that is good enough."""
    return float((rows[column] >= ENOUGH).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="run folder of saev.describe")
    run = Path(parser.parse_args().run)
    rows = judged(run / "latents")
    print("| value | judged on | AUROC | any object | AUROC, whole images |\n|---|---|---|---|---|")
    for row in rows.itertuples():
        blind = "–" if row.any_object != row.any_object else f"{row.any_object:.3f}"
        print(f"| {row.value} | {row.on} | {row.auroc:.3f} | {blind} | {row.auroc_of_images:.3f} |")
    n = len(rows)
    print(f"\nAUROC ≥ {ENOUGH}: {100 * coverage(rows):.0f} % of {n} values where each holds,")
    print(f"{100 * coverage(rows, 'auroc_of_images'):.0f} % told from whole images;")
    above = (rows["auroc"] > rows["any_object"])[rows["on"] == "patches"].mean()
    print(f"above the value-blind control: {100 * above:.0f} % of the values of objects;")
    metrics = json.loads((run / "metrics.json").read_text())
    for kind in ("attribute", "mask"):
        shuffled = metrics[f"concepts/scenes/{kind}/discoveries_shuffled"]
        print(f"{kind}: {100 * shuffled:.1f} % of the concepts discovered with shuffled labels")


if __name__ == "__main__":
    main()
