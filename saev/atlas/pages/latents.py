"""Latent pages: one HTML and one JSON file per latent."""

from typing import Any

import pandas as pd

from saev.atlas.description import Description
from saev.atlas.pages.concepts import ConceptPages
from saev.atlas.pages.gallery import Gallery, Maps, grouped, name_of, records
from saev.codes.running_sums import BINS_PER_OCTAVE, LOWEST
from saev.pages.site import Site, histogram_svg

SHOWN = {"max": 16, "decile": 10, "sum": 8, "near_miss": 4}
N_CONCEPTS, N_CLASSES, N_EFFECTS = 6, 8, 10
NEIGHBOURS = (("atom", "Nearest atoms"), ("coactivation", "Fires together with"))


class LatentPages:
    """Pages of the latents chosen; ``concepts`` says where their concepts' pages are, ``evidence`` holds
    the causal maps of some latents."""

    def __init__(
        self, description: Description, site: Site, gallery: Gallery, concepts: ConceptPages,
        evidence: dict[int, dict[str, Any]],
    ) -> None:  # fmt: skip
        self.d, self.site, self.gallery, self.concept_pages = description, site, gallery, concepts
        self.evidence = evidence
        self.table = description.latents.set_index("latent", drop=False)
        self.around = grouped(description.coactive)
        self.proposed = grouped(description.proposals)
        tests = concepts.tests
        self.tested = grouped(tests.sort_values("f1", ascending=False)) if len(tests) else {}

    def write(self, chosen: list[int]) -> None:
        position = {latent: index for index, latent in enumerate(chosen)}
        for latent, maps in self.gallery.maps(chosen):
            index = position[latent]
            page = self._page(latent, maps, set(chosen))
            page["previous"] = chosen[index - 1] if index else None
            page["next"] = chosen[index + 1] if index + 1 < len(chosen) else None
            self.site.page("atlas_latent.html.j2", f"latent/{latent}.html", l=page)
            self.site.data(f"latent/{latent}.json", self._record(latent, page))

    def _page(self, latent: int, maps: Maps, paged: set[int]) -> dict[str, Any]:
        row = {str(key): value for key, value in self.table.loc[latent].to_dict().items()}
        tiles = {
            role: self.gallery.tiles(self.gallery.of(latent, role, n), maps, row["max"])
            for role, n in SHOWN.items()
        }
        known = {key: (None if value != value else value) for key, value in row.items()}
        proposed = self.proposed.get(latent)
        return known | {
            "row": known,
            "tiles": tiles,
            "evidence": self.evidence.get(latent),
            "chips": _chips(row),
            "proposals": _proposals(proposed),
            "effects": _effects(proposed),
            "concepts": [
                self.concept_pages.row(one) for one in records(self.tested.get(latent))[:N_CONCEPTS]
            ],
            "numbers": _numbers(row, self.d.metrics),
            "histogram": histogram_svg(self.d.histogram[latent], LOWEST, BINS_PER_OCTAVE),
            "classes": self._classes(latent),
            "effect_beats_random": known.get("effect_beats_random"),
            "neighbours": [(kind, title, self._near(latent, kind, paged)) for kind, title in NEIGHBOURS],
        }  # fmt: skip

    def _near(self, latent: int, kind: str, paged: set[int]) -> list[dict[str, Any]]:
        return [
            {
                "latent": one["neighbour"], "likeness": one["likeness"],
                "name": name_of(self.table, one["neighbour"]), "page": one["neighbour"] in paged,
                "face": self.gallery.face(one["neighbour"]) if one["neighbour"] in paged else None,
            }
            for one in records(self.around.get(latent)) if one["kind"] == kind
        ]  # fmt: skip

    def _classes(self, latent: int) -> list[dict[str, Any]]:
        mass = self.d.class_mass[latent]
        total = mass.sum()
        best = (-mass).argsort(kind="stable")[:N_CLASSES]
        return [
            {"name": self.d.class_names[c], "share": float(mass[c] / total)}
            for c in best
            if mass[c] > 0
        ]

    def _record(self, latent: int, page: dict[str, Any]) -> dict[str, Any]:
        """Everything on the page but the pictures."""
        shown = pd.concat([self.gallery.of(latent, role, n) for role, n in SHOWN.items()])
        keys = ["role", "rank", "image_id", "value", "token"]
        neighbours = [
            {"kind": kind, **{key: one[key] for key in ("latent", "name", "likeness")}}
            for kind, _, found in page["neighbours"]
            for one in found
        ]
        return page["row"] | {
            "proposals": page["proposals"], "effects": page["effects"], "concepts": page["concepts"],
            "classes": page["classes"], "neighbours": neighbours,
            "exemplars": records(shown[keys]),
            "causal_map": page["evidence"]["numbers"] if page["evidence"] else None,
        }  # fmt: skip


def _proposals(rows: pd.DataFrame | None) -> list[dict[str, Any]]:
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


def _effects(rows: pd.DataFrame | None) -> list[dict[str, Any]]:
    """What rises most when the latent is steered, with bars relative to the first."""
    if rows is None:
        return []
    own = rows[rows["proposer"] == "effect"].sort_values("rank").head(N_EFFECTS)
    top = max(own["score"].max(), 1e-9) if len(own) else 1.0
    return [
        {"name": name, "score": score, "share": max(score / top, 0.0)}
        for name, score in zip(own["name"], own["score"], strict=True)
    ]


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


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def _count(value: float) -> str:
    return "–" if value != value else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _numbers(row: dict[str, Any], metrics: dict[str, float]) -> list[tuple[str, str, str]]:
    def text(key: str, digits: int = 3) -> str:
        return "–" if row[key] != row[key] else f"{row[key]:.{digits}g}"

    return [
        ("tokens", _percent(row["rate_token"]), f"{row['n_tokens_fired']:,}"),
        ("images", _percent(row["rate_image"]), f"{row['n_images_fired']:,}"),
        ("largest code", text("max"), ""),
        ("mean, median", f"{row['mean']:.3g}, {row['q50']:.3g}", "where it fires"),
        ("90 %, 99 %", f"{row['q90']:.3g}, {row['q99']:.3g}", "quantiles, to within 19 %"),
        ("MS", text("ms"), f"null {text('ms_null')} (95 %), chance {metrics['latents/ms_chance']:.3g}"),
        ("support", _count(row["ms_support"]), "effective images behind MS; below 10 it says nothing"),
        ("entropy of labels", text("label_entropy"), "nats"),
        ("position", text("position_information", 2), "share of its entropy that the place explains"),
        ("importance", text("importance", 2), "share of the energy of all codes"),
        ("nearest atom", text("nearest_cosine", 2), "cosine"),
        ("opposite atom", text("opposite_cosine", 2), "cosine; −1 is a mirror image"),
        ("patches together", text("moran", 2), "Moran's I over the patches; 0 without order"),
    ]  # fmt: skip
