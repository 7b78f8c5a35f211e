"""Page of a comparison: tables, verdicts, and matched latents next to each other."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saev.codes.images import ImageList
from saev.codes.sparse_codes import ImageCodes
from saev.comparison.figures import concept_figure, match_figure, power_figure
from saev.comparison.members import Member
from saev.errors import UserError
from saev.files import read_parquet
from saev.pages.site import Picture, Site, heat_uri, plain, save_thumbnail

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

N_PAIRS, N_LONELY, N_DRIVES, N_TILES, SIDE = 8, 6, 6, 9, 112
SHOWN_COLUMNS = (
    "latent_a", "latent_b", "correlation", "correlation_null", "q", "mutual", "jaccard",
    "exemplar_partner", "exemplar_jaccard", "exemplar_null", "exemplar_q",
)  # fmt: skip


@dataclass(frozen=True)
class Tables:
    """What a comparison found; the file names under ``comparison/``."""

    matches: "pd.DataFrame"
    concepts: "pd.DataFrame"
    power: "pd.DataFrame"
    drives: "pd.DataFrame"

    def files(self) -> dict[str, "pd.DataFrame"]:
        return {name: getattr(self, name) for name in ("matches", "concepts", "power", "drives")}


class AtlasLinks:
    """Names and pages of latents from an atlas of the same dictionary, where there is one."""

    def __init__(self, atlas_dir: str | None, n_latents: int, folder: Path) -> None:
        self.names: dict[int, str] = {}
        self.pages: set[int] = set()
        self.root: str | None = None
        if atlas_dir is None:
            return
        latents = Path(atlas_dir) / "latents"
        path = latents / "latents.parquet"
        if not path.is_file():
            raise UserError(f"atlases: {atlas_dir} holds no latents/latents.parquet")
        table = read_parquet(path, ["latent", "name"])
        if len(table) != n_latents:
            raise UserError(
                f"atlases: {atlas_dir} describes {len(table)} latents, the dictionary has {n_latents}"
            )
        named = table[table["name"].map(lambda name: isinstance(name, str))]
        self.names = dict(zip(named["latent"].tolist(), named["name"].tolist(), strict=True))
        self.pages = {
            int(page.stem) for page in (latents / "latent").glob("*.html") if page.stem.isdecimal()
        }
        self.root = os.path.relpath(latents / "latent", folder)

    def url(self, latent: int) -> str | None:
        return f"{self.root}/{latent}.html" if latent in self.pages else None


def draw_tables(tables: Tables) -> "dict[str, Figure]":
    """Figures of the tables that are not empty, by name of the table."""
    drawn = {"matches": (match_figure, tables.matches), "concepts": (concept_figure, tables.concepts),
             "power": (power_figure, tables.power)}  # fmt: skip
    return {name: draw(frame) for name, (draw, frame) in drawn.items() if len(frame)}


def write_figures(tables: Tables, folder: Path) -> list[Path]:
    """Each of them as a PNG in ``figures/``."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in draw_tables(tables).items():
        paths.append(folder / "figures" / f"{name}.png")
        figure.savefig(paths[-1], dpi=110)
    return paths


def write_comparison_page(
    members: list[Member],
    images: ImageList,
    tables: Tables,
    metrics: Mapping[str, float],
    folder: Path,
    *,
    fdr: float,
    min_power: float,
    least_auroc: float,
    thumbnails: bool = True,
    atlases: Mapping[str, str | None] | None = None,
) -> None:
    """Writes ``index.html`` with the thumbnails that it shows.

    Raises:
        UserError: an atlas that is not one, or of another dictionary.
    """
    subject = " · ".join(
        f"{m.name}: {m.backbone.name}, block {m.layer}, {m.sae.cfg.d_sae:,} latents"
        for m in members
    )
    site = Site(folder, subject, Path(__file__).parent)
    links = {
        m.name: AtlasLinks((atlases or {}).get(m.name), m.store.n_latents, folder) for m in members
    }
    shelf = _Shelf(members, images, folder, links, tables, thumbnails)
    pairs = list(tables.matches[["sae_a", "sae_b"]].drop_duplicates().itertuples(index=False))
    site.script("comparison", _table_data(tables.matches, links, fdr))
    site.page(
        "page.html.j2", "index.html", n_images=f"{len(images.entries):,}",
        pairs=[_pair(one, two, metrics) for one, two in pairs],
        groups=_groups(tables.concepts), power=tables.power.to_dict("records"),
        drives=_drive_rows(tables.drives, links), figures=_figures(folder), fdr=fdr, min_power=min_power,
        least_auroc=least_auroc,
        matched=[shelf.matched(a.name, b.name, fdr) for a, b in combinations(members, 2)],
        lonely=[shelf.lonely(one, two, fdr) for one, two in pairs], driven=shelf.driven(),
    )  # fmt: skip


def _figures(folder: Path) -> dict[str, str]:
    return {path.stem: f"figures/{path.name}" for path in (folder / "figures").glob("*.png")}


def _pair(one: str, two: str, metrics: Mapping[str, float]) -> dict[str, Any]:
    prefix = f"compare/{one}-{two}/"
    found = {key.removeprefix(prefix): v for key, v in metrics.items() if key.startswith(prefix)}
    return {"a": one, "b": two, **found}


def _groups(concepts: "pd.DataFrame") -> list[dict[str, Any]]:
    groups = []
    for (one, two), rows in concepts.groupby(["sae_a", "sae_b"], sort=False):  # type: ignore[misc]
        order = rows["verdict"].map({"only_a": 0, "only_b": 0, "undecided": 1, "both": 2}).fillna(3)
        ordered = rows.assign(order=order).sort_values(["order", "source", "concept"])
        counts = rows["verdict"].value_counts().to_dict()
        groups.append(
            {"a": one, "b": two, "rows": ordered.to_dict("records"), "counts": counts,
             "kinds": rows.groupby(["source", "kind", "verdict"]).size().unstack(fill_value=0)
             .reset_index().to_dict("records")}
        )  # fmt: skip
    return groups


def _drive_rows(drives: "pd.DataFrame", links: Mapping[str, AtlasLinks]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = drives.to_dict("records")  # type: ignore[assignment]
    for row in rows:
        for side in "ab":
            atlas, latent = links[row[f"sae_{side}"]], row[f"latent_{side}"]
            row[f"name_{side}"], row[f"url_{side}"] = atlas.names.get(latent), atlas.url(latent)
    return rows


def _table_data(
    matches: "pd.DataFrame", links: Mapping[str, AtlasLinks], fdr: float
) -> dict[str, Any]:
    return {
        "fdr": fdr,
        "keys": list(SHOWN_COLUMNS),
        "pairs": [
            {"a": one, "b": two, "rows": plain(rows[list(SHOWN_COLUMNS)].to_numpy().tolist())}
            for (one, two), rows in matches.groupby(["sae_a", "sae_b"], sort=False)  # type: ignore[misc]
        ],
        "names": {name: plain(atlas.names) for name, atlas in links.items()},
        "pages": {name: sorted(atlas.pages) for name, atlas in links.items()},
        "roots": {name: atlas.root for name, atlas in links.items()},
    }


class _Shelf:
    """Latents as rows of pictures; every picture is stored once."""

    def __init__(
        self, members: list[Member], images: ImageList, folder: Path,
        links: Mapping[str, AtlasLinks], tables: Tables, thumbnails: bool,
    ) -> None:  # fmt: skip
        self.members = {member.name: member for member in members}
        self.images, self.folder, self.links, self.tables = images, folder, links, tables
        self.codes: dict[str, ImageCodes] = {m.name: m.store.image_codes() for m in members}
        self.thumbnails = thumbnails
        if thumbnails:
            (folder / "thumbs").mkdir(exist_ok=True)

    def matched(self, a: str, b: str, fdr: float) -> dict[str, Any]:
        """Mutual matches at even steps from the best to the last significant one."""
        rows = self._rows(a, b)
        rows = rows[rows["mutual"] & (rows["q"] <= fdr)].sort_values("correlation", ascending=False)
        n_shown = min(N_PAIRS, len(rows))
        steps = np.unique(np.linspace(0, max(len(rows) - 1, 0), n_shown).round().astype(int))
        shown = [
            {
                "note": f"correlation {row['correlation']:.2f} (mis-paired "
                f"{row['correlation_null']:.2f}), Jaccard of the top images {row['jaccard']:.2f}",
                "rows": [self.latent(a, row["latent_a"]), self.latent(b, row["latent_b"])],
            }
            for row in rows.iloc[steps].to_dict("records")
        ]
        return {"a": a, "b": b, "shown": shown}

    def lonely(self, a: str, b: str, fdr: float) -> dict[str, Any]:
        """The most energetic latents of ``a`` whose best partner in ``b`` is no better than the control."""
        rows = self._rows(a, b)
        rows = rows[rows["q"] > fdr]
        codes = self.codes[a]
        fired = np.bincount(codes.latent, minlength=self.members[a].store.n_latents)
        energy = np.bincount(codes.latent, codes.max.astype(float) ** 2, minlength=len(fired))
        rows = rows[fired[rows["latent_a"].to_numpy()] >= N_TILES]
        order = np.argsort(-energy[rows["latent_a"].to_numpy()], kind="stable")[:N_LONELY]
        return {
            "a": a, "b": b,
            "shown": [self.latent(a, k) for k in rows.iloc[order]["latent_a"]],
        }  # fmt: skip

    def driven(self) -> list[dict[str, Any]]:
        """Steered latents and the later latent that each moves most."""
        drives = self.tables.drives
        strongest = drives[drives["rank"] == 0].head(N_DRIVES)
        return [
            {
                "note": f"steered: {row['sae_a']} {row['latent_a']}; moves most: {row['sae_b']} "
                f"{row['latent_b']}, by {row['drive']:.2f} (random directions at most "
                f"{row['drive_random']:.2f})" + ("; this is its match" if row["matched"] else ""),
                "rows": [
                    self.latent(row["sae_a"], row["latent_a"]),
                    self.latent(row["sae_b"], row["latent_b"]),
                ],
            }
            for row in strongest.to_dict("records")
        ]

    def _rows(self, a: str, b: str) -> "pd.DataFrame":
        matches = self.tables.matches
        return matches[(matches["sae_a"] == a) & (matches["sae_b"] == b)]

    def latent(self, name: str, latent: int) -> dict[str, Any]:
        atlas = self.links[name]
        return {
            "title": f"{name} {latent}", "name": atlas.names.get(latent),
            "url": atlas.url(latent), "tiles": self._tiles(name, int(latent)),
        }  # fmt: skip

    def _tiles(self, name: str, latent: int) -> list[Picture]:
        member, codes = self.members[name], self.codes[name]
        own = slice(*np.searchsorted(codes.latent, [latent, latent + 1]))
        order = (-codes.max[own]).argsort(kind="stable")[:N_TILES]
        top = float(codes.max[own].max(initial=0))
        return [
            self._tile(member, latent, int(codes.image[own][k]), float(codes.max[own][k]), top)
            for k in order
        ]

    def _tile(self, member: Member, latent: int, image: int, value: float, top: float) -> Picture:
        grid = member.backbone.grid
        thumb = f"thumbs/{image:06d}.webp" if self.thumbnails else None
        if thumb is not None and not (self.folder / thumb).is_file():
            save_thumbnail(self.images.picture(image, member.backbone), self.folder / thumb, SIDE)
        codes_p = member.store.image_map(image, np.array([latent]))[0]
        on_grid = len(codes_p) == grid[0] * grid[1]
        short = self.images.entries[image][1].image_id.rsplit("/", 1)[-1]
        return Picture(
            image_id=short,
            caption=f"{value:.2f} {short}",
            alt=f"image {short}; code {value:.2f} of {member.name} {latent}",
            thumb=thumb,
            heat=heat_uri(codes_p.reshape(grid), top) if on_grid else None,
        )
