"""Concept pages: one per concept, and the list of them."""

from typing import Any

import pandas as pd

from saev.atlas.description import Description
from saev.atlas.pages.gallery import Gallery, name_of, records
from saev.pages.site import Site

N_LATENTS, N_TILES = 6, 8
KEY = ["source", "kind", "concept"]


class ConceptPages:
    """Pages of every annotated concept, with its best latents."""

    def __init__(self, description: Description, site: Site, gallery: Gallery) -> None:
        self.d, self.site, self.gallery = description, site, gallery
        self.table = description.latents.set_index("latent", drop=False)
        self.tests, self.unseen = _scorable(description.concepts)
        keys = dict.fromkeys(self.tests[KEY].itertuples(index=False, name=None))
        self.page_of = {key: f"{number:04d}" for number, key in enumerate(keys)}

    def row(self, one: dict[str, Any]) -> dict[str, Any]:
        """One latent's test scores for a concept, with the concept's page."""
        shown = {key: one[key] for key in ("concept", "auroc", "ap", "f1", "p", "q")}
        shown["prevalence"] = one["n_positive"] / max(one["n_rows"], 1)
        shown["page"] = self.page_of[one["source"], one["kind"], one["concept"]]
        return shown

    def write(self, paged: set[int]) -> None:
        """Pages with the latents of ``paged``, and ``concepts.html``."""
        listed: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for key, rows in self.tests.groupby(KEY, sort=False):
            source, kind, concept = map(str, key)  # type: ignore[arg-type]
            rows = rows[rows["latent"].isin(paged)].sort_values("rank_f1")
            if rows.empty:
                continue
            best = records(rows.head(1))[0]
            page = self.page_of[source, kind, concept]
            content = {"concept": concept, "note": _note(best), "latents": self._latents(rows)}
            self.site.page("atlas_concept.html.j2", f"concept/{page}.html", c=content)
            name = name_of(self.table, int(best["latent"]))
            entry = self.row(best) | {"latent": int(best["latent"]), "name": name}
            listed.setdefault((source, kind), []).append(entry)
        sources = [
            {
                "title": f"{source}: {kind}",
                "concepts": sorted(entries, key=lambda entry: -entry["f1"]),
                "note": self.d.note_of(source, kind),
                "unseen": self.unseen.get((source, kind), []),
            }
            for (source, kind), entries in listed.items()
        ]
        self.site.page("atlas_concepts.html.j2", "concepts.html", sources=sources)

    def _latents(self, rows) -> list[dict[str, Any]]:
        best = rows.head(N_LATENTS)
        maps = dict(self.gallery.maps(sorted(best["latent"].tolist())))
        return [
            one
            | {
                "name": name_of(self.table, one["latent"]),
                "tiles": self.gallery.tiles(
                    self.gallery.of(one["latent"], "max", N_TILES),
                    maps[one["latent"]],
                    float(self.table["max"][one["latent"]]),
                ),
            }
            for one in records(best)
        ]


def _scorable(concepts: pd.DataFrame) -> tuple[pd.DataFrame, dict[tuple[str, str], list[str]]]:
    """Test rows of concepts that both discovery and test images hold, and the names of the others:
    where there is nothing to choose a latent by, the first of all would be shown."""
    if concepts.empty:
        return concepts, {}
    held = concepts[concepts["split"] != "calibration"].groupby(KEY, sort=False)["n_positive"].min()
    names: dict[tuple[str, str], list[str]] = {}
    for source, kind, concept in held.index[held == 0]:
        names.setdefault((source, kind), []).append(concept)
    tests = concepts[concepts["split"] == "test"]
    known = tests.set_index(KEY).index.isin(held.index[held > 0])
    return tests[known], names


def _note(best: dict[str, Any]) -> str:
    rows = "patches" if best["kind"] == "mask" else "images"
    return (
        f"{best['source']}, {best['kind']}: {best['n_positive']:,.0f} of {best['n_rows']:,} {rows} of "
        "the test split. Latents in the order of their F1 on the discovery split, which the numbers "
        "below had no part in; the pictures are the strongest of all images."
    )
