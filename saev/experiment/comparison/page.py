"""The page of a comparison: tables, verdicts, and pairs of matched latents side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saev.experiment.atlas.code_pass import ImageList
from saev.experiment.comparison.tables import Member
from saev.report.atlas import Picture, Site, heat_uri, save_thumbnail

if TYPE_CHECKING:
    import pandas as pd

N_PAIRS, N_TILES, SIDE = 12, 6, 112


def write_comparison_page(
    members: list[Member], images: ImageList, matches: "pd.DataFrame", concepts: "pd.DataFrame",
    drives: "pd.DataFrame", metrics: dict[str, float], folder: Path,
) -> None:  # fmt: skip
    """Writes ``index.html`` with the thumbnails that it shows."""
    subject = " · ".join(f"{m.name}: {m.backbone.name}, block {m.sae.cfg.layer}" for m in members)
    site = Site(folder, subject)
    pairs = [
        {
            "a": one, "b": two, "matched": metrics[f"compare/{one}-{two}/matched"],
            "correlation": metrics[f"compare/{one}-{two}/correlation_median"],
            "null": metrics[f"compare/{one}-{two}/correlation_null_median"],
            "mutual": metrics[f"compare/{one}-{two}/mutual"],
            "jaccard": metrics[f"compare/{one}-{two}/jaccard_mean"],
        }
        for one, two in matches[["sae_a", "sae_b"]].drop_duplicates().itertuples(index=False)
    ]  # fmt: skip
    groups = [
        {"a": one, "b": two, "rows": rows.to_dict("records")}
        for (one, two), rows in (concepts.groupby(["sae_a", "sae_b"]) if len(concepts) else [])
    ]
    site.page(
        "atlas_compare.html.j2", "index.html", n_images=f"{len(images.entries):,}", pairs=pairs,
        groups=groups, drives=drives.to_dict("records"),
        shown=_shown(members, images, matches, folder),
    )  # fmt: skip


def _shown(
    members: list[Member], images: ImageList, matches: "pd.DataFrame", folder: Path
) -> list[dict[str, Any]]:
    """Mutual matches of the first two dictionaries at even steps from the best to the worst."""
    first, second = members[:2]
    rows = matches[(matches["sae_a"] == first.name) & (matches["sae_b"] == second.name)]
    rows = rows[rows["mutual"]].sort_values("correlation", ascending=False)
    steps = np.unique(np.linspace(0, len(rows) - 1, min(N_PAIRS, len(rows))).round().astype(int))
    codes = {member.name: member.store.image_codes() for member in (first, second)}
    (folder / "thumbs").mkdir(exist_ok=True)
    found = []
    for row in rows.iloc[steps].to_dict("records"):
        sides = [
            _tiles(member, codes[member.name], int(row[key]), images, folder)
            for member, key in ((first, "latent_a"), (second, "latent_b"))
        ]
        found.append(
            {
                "title": f"{first.name} {row['latent_a']} and {second.name} {row['latent_b']}",
                "note": f"correlation {row['correlation']:.2f} (mis-paired {row['correlation_null']:.2f}),"
                f" Jaccard of the top images {row['jaccard']:.2f}",
                "left": sides[0],
                "right": sides[1],
            }
        )
    return found


def _tiles(member: Member, codes, latent: int, images: ImageList, folder: Path) -> list[Picture]:
    own = slice(*np.searchsorted(codes.latent, [latent, latent + 1]))
    order = (-codes.max[own]).argsort(kind="stable")[:N_TILES]
    top = float(codes.max[own].max())
    grid = member.backbone.grid
    found = []
    for entry in order:
        image, value = int(codes.image[own][entry]), float(codes.max[own][entry])
        path = folder / "thumbs" / f"{image:06d}.webp"
        if not path.is_file():
            save_thumbnail(images.picture(image, member.backbone), path, SIDE)
        map_p = member.store.image_map(image, np.array([latent]))[0]
        short = images.entries[image][1].image_id.rsplit("/", 1)[-1]
        heat = heat_uri(map_p.reshape(grid), top) if len(map_p) == grid[0] * grid[1] else None
        found.append(Picture(short, f"{value:.2f} {short}", f"image {short}; code {value:.2f}",
                             f"thumbs/{image:06d}.webp", heat))  # fmt: skip
    return found
