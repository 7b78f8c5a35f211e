"""Overview of an atlas, and the whole site: latents, concepts, pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saev.atlas.description import Description
from saev.atlas.pages.concepts import ConceptPages
from saev.atlas.pages.contact_sheets import write_contact_sheets
from saev.atlas.pages.evidence import choose_evidence, evidence_of
from saev.atlas.pages.gallery import Gallery
from saev.atlas.pages.latents import LatentPages
from saev.backbones import Backbone
from saev.pages.figures import latent_scatter
from saev.pages.site import Site
from saev.sae import SparseAutoencoder

if TYPE_CHECKING:
    import pandas as pd

AXES = (
    ("ms_corrected", "monosemanticity above chance, support ≥ 10"),
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
    *,
    n_latents: int | None,
    thumbnails: bool,
    contact_sheets: bool,
    attributions: int,
) -> list[Path]:
    """Writes ``index.html`` and all it leads to; returns figures (PNG) for the tracking store.

    Needs the codes on disk. Pages are written for alive latents, the most important first. Without
    ``thumbnails`` nothing that is written holds a picture, and pictures of earlier runs are removed.
    The ``attributions`` most important get a causal map, which shows the picture too.
    """
    subject = f"{backbone.name}, block {sae.cfg.layer}, {sae.cfg.d_sae:,} latents"
    site = Site(folder, subject, Path(__file__).parent)
    site.clear("latent", "concept")
    gallery = Gallery(description, backbone, thumbnails)
    chosen = choose_pages(description, n_latents)
    concepts = ConceptPages(description, site, gallery)
    _overview(description, site, chosen, folder / "baselines.parquet")
    mapped = choose_evidence(description.latents, chosen, attributions if thumbnails else 0)
    evidence = evidence_of(description, sae, backbone, gallery, mapped)
    LatentPages(description, site, gallery, concepts, evidence).write(chosen)
    concepts.write(set(chosen))
    gallery.write(folder / "thumbs")
    figures = [folder / "scatter.png"]
    latent_scatter(description.latents, subject).savefig(figures[0], dpi=110)
    for path in folder.glob("contact_*.png"):
        path.unlink()
    if contact_sheets and thumbnails:
        figures += write_contact_sheets(description, gallery, subject, folder)
    return figures


def choose_pages(description: Description, n_latents: int | None) -> list[int]:
    """The latents that get a page, in order of number."""
    table = description.latents
    alive = table[table["n_images_fired"] > 0].sort_values("importance", ascending=False)
    return sorted(alive["latent"][:n_latents].tolist())


def _overview(description: Description, site: Site, chosen: list[int], baselines: Path) -> None:
    table = description.latents
    rows = table[list(KEYS)].astype(object).where(table[list(KEYS)].notna(), None)
    first = description.proposals[description.proposals["rank"] == 0]
    words = first.groupby("latent")["name"].agg(" ".join)
    rows["proposals"] = [words.get(latent) for latent in table["latent"]]
    site.overview_data([*KEYS, "proposals"], rows.to_numpy().tolist(), chosen)
    alive = table[table["n_images_fired"] > 0]
    images = description.images
    site.page(
        "atlas_index.html.j2", "index.html",
        n_latents=f"{len(table):,}", n_alive=f"{len(alive):,}", n_images=f"{len(description.splits):,}",
        n_named=f"{alive['name'].notna().sum():,}", n_pages=f"{len(chosen):,}",
        all_paged=len(chosen) == len(alive),
        axes=[axis for axis in AXES if table[axis[0]].notna().any()],
        baselines=_baselines(baselines), baseline_images=description.n_baseline_images,
        stability=_stability(description.more.get("stability")),
    )  # fmt: skip
    site.page(
        "atlas_about.html.j2", "about.html",
        image_note=", ".join(f"{name} ({len(images.of_source(name)[1]):,})" for name in images.sources),
        embed_note=description.embedding_note,
    )  # fmt: skip


def _stability(table: "pd.DataFrame | None") -> list[dict[str, Any]]:
    """Rows of other seeds and of the nulls, in words."""
    if table is None:
        return []
    said = {
        "isotropic": "by chance: random directions",
        "covariance": "by chance: random directions with the covariance of the activations",
        "tokens": "by chance: activations of different images as atoms",
    }
    rows: list[dict[str, Any]] = table.to_dict("records")  # type: ignore[assignment]
    return [
        {"name": said[row["dictionary"]] if row["is_null"] else row["dictionary"],
         "values": [f"{row[key]:.3f}" for key in ("mean", "above_0.5", "above_0.9")]}
        for row in rows
    ]  # fmt: skip


def _baselines(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    import pandas as pd

    frame = pd.read_parquet(path)
    rows = [
        [str(row[0]), *("–" if np.isnan(value) else f"{value:.3g}" for value in row[1:])]
        for row in frame.itertuples(index=False)
    ]
    return {"columns": list(frame.columns), "rows": rows}
