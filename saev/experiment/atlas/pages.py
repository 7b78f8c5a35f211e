"""From the tables of a description to its pages, thumbnails and contact sheets.

Suffixes: s latents, p patches.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from omegaconf import DictConfig

from saev.backbones import Backbone
from saev.experiment.atlas.description import Description
from saev.latents.statistics import BINS_PER_OCTAVE, LOWEST
from saev.report import LatentRow, Tile, exemplar_figure
from saev.report.atlas import Picture, Site, heat_uri, histogram_svg, save_thumbnail
from saev.sae import SparseAutoencoder

if TYPE_CHECKING:
    import pandas as pd

ROLES = ("max", "decile", "sum", "near_miss")
SHOWN = {"max": 16, "decile": 10, "sum": 8, "near_miss": 4}
PIXELS_PER_PATCH = 8
FEW = 64
"""Up to so many latents are read one by one instead of a range at a time."""
CONCEPT_LATENTS, CONCEPT_TILES = 6, 8
SHEET_ROWS, SHEET_TILES = 10, 8
AXES = (
    ("ms_corrected", "monosemanticity above chance"),
    ("concept_auroc", "AUROC of its best concept"),
    ("concept_f1", "F1 of its best concept"),
    ("name_confidence", "confidence of its name"),
    ("label_entropy", "entropy of labels, nats"),
    ("position_information", "dependence on position"),
    ("importance", "share of energy"),
)
KEYS = (
    "latent", "name", "name_confidence", "proposer", "best_concept", "concept_auroc", "concept_f1",
    "concept_q", "rate_image", "ms", "ms_corrected", "ms_support", "label_entropy",
    "position_information", "importance",
)  # fmt: skip


def write_pages(
    description: Description,
    sae: SparseAutoencoder,
    backbone: Backbone,
    folder: Path,
    settings: DictConfig,
) -> list[Path]:
    """Writes ``index.html`` and all it leads to; returns the contact sheets (PNG).

    Needs the codes on disk. Pages are written for alive latents, the most important first.
    """
    subject = f"{backbone.name}, block {sae.cfg.layer}, {sae.cfg.d_sae:,} latents"
    pages = _Pages(description, backbone, Site(folder, subject), bool(settings.thumbnails))
    chosen = pages.choose(settings.n_latents)
    pages.overview(chosen, folder / "baselines.parquet")
    pages.latents(chosen)
    pages.concepts(set(chosen))
    if settings.thumbnails:
        pages.thumbnails(folder / "thumbs")
    if (
        settings.contact_sheets
        and description.store.n_tokens == backbone.grid[0] * backbone.grid[1]
    ):
        return pages.contact_sheets(folder)
    return []


class _Pages:
    """One site in the making."""

    def __init__(
        self, description: Description, backbone: Backbone, site: Site, thumbnails: bool
    ) -> None:
        self.d, self.backbone, self.site, self.with_thumbs = description, backbone, site, thumbnails
        self.grid = backbone.grid
        self.table = description.latents.set_index("latent", drop=False)
        self.exemplars = {
            int(str(latent)): rows
            for latent, rows in description.exemplars.groupby("latent", sort=True)  # type: ignore[misc]
        }
        self.tests = description.concepts[description.concepts["split"] == "test"]
        self.used: set[int] = set()
        self.strongest: dict[int, list[Picture]] = {}
        self.page_of = {
            pair: f"{number:04d}"
            for number, pair in enumerate(
                dict.fromkeys(
                    zip(
                        self.tests["source"], self.tests["kind"], self.tests["concept"], strict=True
                    )
                )
            )
        }

    def choose(self, n_latents: int | None) -> list[int]:
        """The latents that get a page, in order of number."""
        alive = self.table[self.table["n_images_fired"] > 0]
        return sorted(
            alive.sort_values("importance", ascending=False)["latent"][:n_latents].tolist()
        )

    def overview(self, chosen: list[int], baselines: Path) -> None:
        table = self.table
        rows = table[list(KEYS)].astype(object).where(table[list(KEYS)].notna(), None)
        first = self.d.proposals[self.d.proposals["rank"] == 0]
        words = first.groupby("latent")["name"].agg(" ".join)
        rows["proposals"] = [words.get(latent) for latent in table["latent"]]
        self.site.overview_data([*KEYS, "proposals"], rows.to_numpy().tolist(), chosen)
        alive = table[table["n_images_fired"] > 0]
        self.site.page(
            "atlas_index.html.j2", "index.html",
            n_latents=f"{len(table):,}", n_alive=len(alive), n_images=f"{len(self.d.splits):,}",
            n_named=int(alive["name"].notna().sum()), n_pages=len(chosen),
            axes=[axis for axis in AXES if table[axis[0]].notna().any()],
            baselines=_baselines(baselines), baseline_images=self.d.n_baseline_images,
        )  # fmt: skip
        self.site.page(
            "atlas_about.html.j2", "about.html",
            image_note=", ".join(
                f"{name} ({len(self.d.images.of_source(name)[1]):,})" for name in self.d.images.sources
            ),
            embed_note=self.d.embedding_note,
        )  # fmt: skip

    def latents(self, chosen: list[int]) -> None:
        position = {latent: index for index, latent in enumerate(chosen)}
        around = _grouped(self.d.coactive)
        names = _grouped(self.d.proposals)
        told = _grouped(self.tests.sort_values("f1", ascending=False))
        for latent, maps in self._maps(chosen):
            index = position[latent]
            page = self._page(latent, maps, names, told, around, set(chosen))
            page["previous"] = chosen[index - 1] if index else None
            page["next"] = chosen[index + 1] if index + 1 < len(chosen) else None
            self.site.page("atlas_latent.html.j2", f"latent/{latent}.html", l=page)
            record = {key: page["row"][key] for key in page["row"]}
            record |= {"proposals": page["proposals"], "concepts": page["concepts"]}
            self.site.data(f"latent/{latent}.json", record)

    def _page(
        self, latent: int, maps: dict[int, Any], names, told, around, paged
    ) -> dict[str, Any]:
        row = {str(key): value for key, value in self.table.loc[latent].to_dict().items()}
        rows = self.exemplars.get(latent, self.d.exemplars.iloc[:0])
        own = {
            role: self._tiles(rows[rows["role"] == role].head(SHOWN[role]), maps, row["max"])
            for role in ROLES
        }
        self.strongest[latent] = own["max"][:CONCEPT_TILES]
        known = {key: (None if value != value else value) for key, value in row.items()}
        return known | {
            "row": known,
            "tiles": own,
            "chips": _chips(row),
            "proposals": _proposals(names.get(latent)),
            "concepts": [self._concept_row(one) for one in _records(told.get(latent))[:6]],
            "numbers": _numbers(row, self.d.metrics),
            "histogram": histogram_svg(self.d.histogram[latent], LOWEST, BINS_PER_OCTAVE),
            "classes": self._classes(latent),
            "effect_beats_random": known.get("effect_beats_random"),
            "neighbours": [
                (kind, title, [
                    {"latent": one["neighbour"], "likeness": one["likeness"],
                     "name": self._name(one["neighbour"]),
                     "page": one["neighbour"] in paged}
                    for one in _records(around.get(latent)) if one["kind"] == kind
                ])
                for kind, title in (("atom", "Nearest atoms"), ("coactivation", "Fires together with"))
            ],
        }  # fmt: skip

    def _name(self, latent: int) -> str | None:
        """None for unnamed; pandas may hold that as nan."""
        name = self.table.loc[latent, "name"]
        return name if isinstance(name, str) else None

    def _concept_row(self, one: dict[str, Any]) -> dict[str, Any]:
        shown = {key: one[key] for key in ("concept", "auroc", "ap", "f1", "p", "q")}
        shown["prevalence"] = one["n_positive"] / max(one["n_rows"], 1)
        shown["page"] = self.page_of[one["source"], one["kind"], one["concept"]]
        return shown

    def _classes(self, latent: int, n: int = 8) -> list[dict[str, Any]]:
        mass = self.d.class_mass[latent]
        total = mass.sum()
        best = (-mass).argsort(kind="stable")[:n]
        return [
            {"name": self.d.class_names[c], "share": float(mass[c] / total)}
            for c in best
            if mass[c] > 0
        ]

    def _tiles(self, rows: "pd.DataFrame", maps: dict[int, Any], top: float) -> list[Picture]:
        found = []
        for row in rows.itertuples():
            image, value = int(row.image), float(row.value)  # type: ignore[arg-type]
            self.used.add(image)
            codes = maps.get(image)
            short = str(row.image_id).rsplit("/", 1)[-1]
            label = self.d.label_of(image)
            caption = f"{value:.2f} {label or short}" if value > 0 else f"silent · {label or short}"
            place = ""
            if codes is not None and value > 0:
                y, x = divmod(int(row.token), self.grid[1])  # type: ignore[arg-type]
                place = f", strongest at row {y + 1}, column {x + 1} of the patches"
            found.append(
                Picture(
                    image_id=str(row.image_id),
                    caption=caption,
                    alt=f"{label + ', ' if label else ''}image {short}; code {value:.2f}{place}",
                    thumb=f"thumbs/{image:06d}.webp" if self.with_thumbs else None,
                    heat=None if codes is None else heat_uri(codes, top),
                )
            )
        return found

    def _maps(self, chosen: list[int]) -> Iterator[tuple[int, dict[int, Float[np.ndarray, "h w"]]]]:
        """Codes per patch of each latent's exemplars; none where tokens are not patches."""
        store, wanted = self.d.store, set(chosen)
        on_grid = store.n_tokens == self.grid[0] * self.grid[1]
        few = len(wanted) <= FEW
        spans = [(k, k + 1) for k in sorted(wanted)] if few else store.chunks()
        for first, last in spans:
            latent, row, value = store.token_codes(first, last)
            bounds = np.searchsorted(latent, np.arange(first, last + 1))
            for number in range(first, last):
                if number not in wanted:
                    continue
                maps: dict[int, np.ndarray] = {}
                if on_grid:
                    own = slice(bounds[number - first], bounds[number - first + 1])
                    image, token = np.divmod(row[own], store.n_tokens)
                    for one in self.exemplars[number]["image"].unique():
                        begin, end = np.searchsorted(image, [one, one + 1])
                        codes = np.zeros(store.n_tokens, np.float32)
                        codes[token[begin:end]] = value[own][begin:end]
                        maps[int(one)] = codes.reshape(self.grid)
                yield number, maps

    def concepts(self, paged: set[int]) -> None:
        listed: dict[tuple[str, str], list[dict[str, Any]]] = {}
        keys = [self.tests[name] for name in ("source", "kind", "concept")]
        for (source, kind, concept), page in self.page_of.items():
            rows = self.tests[(keys[0] == source) & (keys[1] == kind) & (keys[2] == concept)]
            rows = rows[rows["latent"].isin(paged)].sort_values("rank_f1")
            if rows.empty:
                continue
            best = rows.iloc[0]
            maps = dict(self._maps(sorted(rows["latent"].head(6).tolist())))
            latents = []
            for one in _records(rows.head(6)):
                exemplars = self.exemplars[one["latent"]]
                tiles = self._tiles(
                    exemplars[exemplars["role"] == "max"].head(8), maps[one["latent"]],
                    float(self.table["max"][one["latent"]]),
                )  # fmt: skip
                latents.append(one | {"tiles": tiles, "name": self._name(one["latent"])})
            note = (
                f"{source}, {best['kind']}: {best['n_positive']:,.0f} of {best['n_rows']:,} "
                f"{'patches' if best['kind'] == 'mask' else 'images'} of the test split. Latents in the "
                "order of their F1 on the discovery split, which the numbers below had no part in; the "
                "pictures are the strongest of all images."
            )
            self.site.page(
                "atlas_concept.html.j2", f"concept/{page}.html",
                c={"concept": concept, "note": note, "latents": latents},
            )  # fmt: skip
            entry = self._concept_row(best.to_dict()) | {
                "latent": int(best["latent"]), "name": self._name(int(best["latent"]))
            }  # fmt: skip
            listed.setdefault((source, best["kind"]), []).append(entry)
        sources = [
            {
                "title": f"{source}: {kind}",
                "concepts": entries,
                "note": self.d.note_of(source, kind),
            }
            for (source, kind), entries in listed.items()
        ]
        self.site.page("atlas_concepts.html.j2", "concepts.html", sources=sources)

    def thumbnails(self, folder: Path) -> None:
        """Every picture that a page shows, once."""
        folder.mkdir(exist_ok=True)
        side = max(96, PIXELS_PER_PATCH * max(self.grid))
        for image in sorted(self.used):
            path = folder / f"{image:06d}.webp"
            if not path.is_file():
                save_thumbnail(self.d.images.picture(image, self.backbone), path, side)

    def contact_sheets(self, folder: Path) -> list[Path]:
        """``named.png``: the surest names; ``random.png``: alive latents drawn blindly."""
        enough = self.table[self.table["n_images_fired"] >= SHEET_TILES]
        named = enough[enough["name"].notna()].sort_values("name_confidence", ascending=False)
        drawn = enough.sample(min(SHEET_ROWS, len(enough)), random_state=0).sort_index()
        paths = []
        for name, rows in (("named", named.head(SHEET_ROWS)), ("random", drawn)):
            if rows.empty:
                continue
            maps = dict(self._maps(sorted(rows["latent"].tolist())))
            figure = exemplar_figure(
                f"{name.capitalize()} latents", [self._sheet_row(row, maps) for row in _records(rows)],
                self.site.subject,
            )  # fmt: skip
            path = folder / f"contact_{name}.png"
            figure.savefig(path, dpi=110)
            paths.append(path)
        return paths

    def _sheet_row(self, row: dict[str, Any], maps: dict[int, dict[int, Any]]) -> LatentRow:
        exemplars = self.exemplars[row["latent"]]
        images = exemplars[exemplars["role"] == "max"]["image"].head(SHEET_TILES)
        tiles = [
            Tile(self.d.images.picture(int(image), self.backbone), maps[row["latent"]][int(image)])
            for image in images
        ]
        return LatentRow(row["latent"], self._name(row["latent"]) or "unnamed", tiles)


def _grouped(frame: "pd.DataFrame") -> dict[int, "pd.DataFrame"]:
    return {int(latent): rows for latent, rows in frame.groupby("latent", sort=False)}  # type: ignore[arg-type]


def _records(rows: "pd.DataFrame | None") -> list[dict[str, Any]]:
    return [] if rows is None else rows.to_dict("records")  # type: ignore[return-value]


def _proposals(rows: "pd.DataFrame | None") -> list[dict[str, Any]]:
    found = []
    for proposer, own in [] if rows is None else rows.groupby("proposer", sort=False):
        ranked = own.sort_values("rank")
        first = ranked.iloc[0]
        others = ", ".join(ranked["name"].iloc[1:10])
        found.append(
            {"proposer": proposer, "name": first["name"], "confidence": first["confidence"],
             "q": first["q"], "others": others}
        )  # fmt: skip
    return found


def _chips(row: dict[str, Any]) -> list[tuple[str, str]]:
    chips = []
    if row["dense"]:
        chips.append(("dense", "fires on more than 10 % of tokens"))
    if row["n_images_fired"] < 20:
        chips.append(("rare", f"fires on {row['n_images_fired']} images only"))
    if row["position_information"] > 0.1:
        chips.append(("positional", "where it fires depends on the place in the image"))
    if row["ms"] > row["ms_null"] and row["ms_support"] >= 10:
        chips.append(("images alike", "monosemanticity above its 95 % null"))
    return chips


def _numbers(row: dict[str, Any], metrics: dict[str, float]) -> list[tuple[str, str, str]]:
    def text(key: str, digits: int = 3) -> str:
        return "–" if row[key] != row[key] else f"{row[key]:.{digits}g}"

    return [
        ("tokens", f"{100 * row['rate_token']:.2g} %", f"{row['n_tokens_fired']:,}"),
        ("images", f"{100 * row['rate_image']:.2g} %", f"{row['n_images_fired']:,}"),
        ("largest code", text("max"), ""),
        ("mean, median", f"{row['mean']:.3g}, {row['q50']:.3g}", "where it fires"),
        ("90 %, 99 %", f"{row['q90']:.3g}, {row['q99']:.3g}", "quantiles, to within 19 %"),
        ("MS", text("ms"), f"null {text('ms_null')} (95 %), chance {metrics['latents/ms_chance']:.3g}"),
        ("support", text("ms_support"), "effective images behind MS; below 10 it says nothing"),
        ("entropy of labels", text("label_entropy"), "nats"),
        ("position", text("position_information", 2), "share of its entropy that the place explains"),
        ("importance", text("importance", 2), "share of the energy of all codes"),
        ("nearest atom", text("nearest_cosine", 2), "cosine"),
    ]  # fmt: skip


def _baselines(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    import pandas as pd

    frame = pd.read_parquet(path)
    rows = [
        [str(row[0]), *(f"{value:.3g}" for value in row[1:])]
        for row in frame.itertuples(index=False)
    ]
    return {"columns": list(frame.columns), "rows": rows}
