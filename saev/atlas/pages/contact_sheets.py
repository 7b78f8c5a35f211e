"""Contact sheets: exemplars of several latents as one PNG, for papers and for MLflow."""

from pathlib import Path
from typing import Any

from saev.atlas.description import Description
from saev.atlas.pages.gallery import Gallery, Maps, name_of, records
from saev.pages.figures import LatentRow, Tile, exemplar_figure

N_ROWS, N_TILES = 10, 8


def write_contact_sheets(
    description: Description, gallery: Gallery, subject: str, folder: Path
) -> list[Path]:
    """``contact_named.png``: the surest names; ``contact_random.png``: latents drawn blindly.

    Of latents that fire on eight images or more; nothing where tokens are not patches.
    """
    if not gallery.on_grid:
        return []
    table = description.latents.set_index("latent", drop=False)
    enough = table[table["n_images_fired"] >= N_TILES]
    named = enough[enough["name"].notna()].sort_values("name_confidence", ascending=False)
    drawn = enough.sample(min(N_ROWS, len(enough)), random_state=0).sort_index()
    paths = []
    for title, rows in (("named", named.head(N_ROWS)), ("random", drawn)):
        if rows.empty:
            continue
        maps = dict(gallery.maps(sorted(rows["latent"].tolist())))
        shown = [
            _row(row, name_of(table, row["latent"]), gallery, maps[row["latent"]])
            for row in records(rows)
        ]
        paths.append(folder / f"contact_{title}.png")
        figure = exemplar_figure(f"{title.capitalize()} latents", shown, subject)
        figure.savefig(paths[-1], dpi=110)
    return paths


def _row(row: dict[str, Any], name: str | None, gallery: Gallery, maps: Maps) -> LatentRow:
    images = gallery.of(row["latent"], "max", N_TILES)["image"]
    tiles = [
        Tile(gallery.d.images.picture(int(image), gallery.backbone), maps[int(image)])
        for image in images
    ]
    return LatentRow(row["latent"], name or "unnamed", tiles)
