"""Description of a dictionary: codes on disk, tables, names.

Suffixes: b images, s latents, c concepts.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int

from datamodules.images import ImageSource
from saev.atlas.best_concepts import annotations, best_concepts, concept_metrics, score_all
from saev.atlas.names.candidate_names import Columns, columns_of, vocabulary_concepts
from saev.atlas.names.naming import choose_names
from saev.atlas.names.proposers import NameProposals, effects_of, propose
from saev.atlas.names.tree_places import add_tree_places, class_of
from saev.atlas.probes import foreign_table, probe_table
from saev.atlas.settings import AtlasSettings, NamingSettings, read_tree, read_vocabulary
from saev.atlas.spatial_coherence import ABOVE_NULL, SpatialCoherence
from saev.atlas.stability import pool_images, stability
from saev.atlas.summaries import (
    MIN_SUPPORT,
    embedding_of,
    labels_per_image,
    neighbours,
    statistics_of,
    summarize,
)
from saev.atlas.tables import (
    add_names,
    concept_table,
    exemplar_table,
    proposal_table,
    statistics_table,
)
from saev.backbones import Backbone
from saev.codes.code_pass import CodePass, open_code_store, tokens_of
from saev.codes.exemplars import top_images
from saev.codes.images import ImageList
from saev.codes.running_sums import LatentStatistics
from saev.codes.store import CodeStore
from saev.concepts.annotations import assign_splits
from saev.concepts.best_latents import ConceptScores
from saev.errors import UserError
from saev.files import write_atomically, write_table
from saev.metrics.class_mass import label_entropy
from saev.metrics.geometry import antipodal_pairs, geometry
from saev.metrics.monosemanticity import uniqueness
from saev.sae import SparseAutoencoder

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


@dataclass
class Description:
    """Everything found; the tables are what ``latents/`` holds."""

    latents: "pd.DataFrame"
    concepts: "pd.DataFrame"
    exemplars: "pd.DataFrame"
    proposals: "pd.DataFrame"
    coactive: "pd.DataFrame"
    metrics: dict[str, float]
    scores: list[ConceptScores]
    images: ImageList
    store: CodeStore
    splits: list[str]
    statistics: LatentStatistics
    embedding_note: str
    n_baseline_images: int
    grid: tuple[int, int]
    """Patches down and across."""
    more: "dict[str, pd.DataFrame]"
    """Further tables by file name."""

    @property
    def histogram(self) -> Int[np.ndarray, "s h"]:
        """Codes per logarithmic bin."""
        return self.statistics.histogram_sh

    @property
    def class_mass(self) -> Float[np.ndarray, "s c"]:
        """Summed largest codes on the images of each class, classes counted through all sources."""
        return self.statistics.mass_sc

    @property
    def class_names(self) -> list[str]:
        """Of the columns of ``class_mass``."""
        return [n for source in self.images.sources.values() for n in source.class_names or []]

    def label_of(self, image: int) -> str | None:
        """Name of an image's class."""
        return class_of(self.images, image)

    def note_of(self, source: str, kind: str) -> str:
        """What was counted, and what the same search finds with shuffled labels."""
        one = next(s for s in self.scores if (s.concepts.source, s.concepts.kind) == (source, kind))
        unit = "patches" if one.concepts.on_patches else "images"
        n = ", ".join(f"{one.n_rows[split]:,} {split}" for split in one.n_rows)
        return (
            f"{n} {unit}. With shuffled labels {100 * one.shuffled_discoveries:.1f} % of the concepts "
            "have a latent with q ≤ 0.05."
        )


def make_description(
    sae: SparseAutoencoder,
    backbone: Backbone,
    sources: Mapping[str, ImageSource],
    out_dir: Path,
    atlas: AtlasSettings,
    naming: NamingSettings,
    *,
    embedder: Backbone | None = None,
    device: str | torch.device = "cpu",
) -> Description | None:
    """Runs the pass (or what is left of it) and makes every table; None where this process is one of
    several and others have not finished.

    Raises:
        UserError: no images, or too few; annotations, a vocabulary or a tree that do not fit; a folder of
            other codes.
    """
    images = ImageList.of(sources, atlas.n_images)
    splits = splits_of(images, atlas.seed)
    words, tree = read_vocabulary(naming.vocabulary), read_tree(naming.tree)
    concepts = annotations(images, backbone, atlas)
    store = open_code_store(out_dir / "codes", sae, backbone, images, "sae", sae.cfg.d_sae,
                       atlas.images_per_part)  # fmt: skip
    run = CodePass(backbone, sae, images, sae.encode, store, batch_size=atlas.batch_size,
                   num_workers=atlas.num_workers, device=device)  # fmt: skip
    run.run(*atlas.shard)
    if missing := store.missing():
        log.info("%d parts are other processes' and not there yet; run this again", len(missing))
        return None
    embedding = embedding_of(store, images, embedder, atlas, device)
    statistics = statistics_of(store, labels_per_image(images), atlas.seed)
    summaries = summarize(
        store, embedding, class_token=_class_token(sae, backbone),
        coherence=SpatialCoherence(backbone.grid, _patches(sae, backbone), store.n_tokens),
        n_top=atlas.n_top, seed=atlas.seed,
    )  # fmt: skip
    table = statistics_table(statistics)
    table["label_entropy"] = (
        label_entropy(statistics.mass_sc) if statistics.mass_sc.size else np.nan
    )
    for name, column in summaries.columns.items():
        table[name] = column
    coactive = neighbours(table, sae, statistics)
    columns = columns_of(backbone, store, words)
    if columns is not None and words is not None:
        concepts.append(vocabulary_concepts(columns, splits))
    scores = score_all(store, concepts, atlas)
    best_concepts(table, scores)
    proposals = _name(
        table, sae, backbone, images, store, columns, splits, scores, naming, device, atlas.seed
    )
    names, by_chance = (
        choose_names(one, store.n_latents, fdr=atlas.fdr, min_confidence=naming.min_confidence)
        for one in proposals
    )
    add_names(table, names)
    exemplars = exemplar_table(summaries.samples, store.image_ids)
    if tree is not None:
        add_tree_places(table, exemplars, images, tree)
    metrics = _metrics(table, exemplars, scores, sae, summaries.chance)
    alive = ~table["dead"].to_numpy()
    more = {"probes": probe_table(store, scores)}
    if atlas.foreign:
        more["foreign"] = foreign_table(store, images, splits, atlas.foreign)
        for score, auroc, fpr95 in more["foreign"][["score", "auroc", "fpr95"]].to_numpy().tolist():
            metrics |= {f"foreign/{score}/auroc": auroc, f"foreign/{score}/fpr95": fpr95}
    if atlas.seeds:
        pool = tokens_of(backbone, sae, images, pool_images(sae, store.n_tokens), atlas.seed,
                         batch_size=atlas.batch_size)  # fmt: skip
        table["stability"], more["stability"], found = stability(sae, atlas.seeds, pool, atlas.seed)
        metrics |= found
    metrics["latents/named_fraction_shuffled"] = float(
        np.mean([one.name is not None for one in by_chance], where=alive)
    )
    return Description(
        table, concept_table(scores), exemplars, proposal_table(proposals.found), coactive, metrics,
        scores, images, store, splits, statistics, _note(backbone, embedder),
        min(atlas.baseline_images, len(splits)), backbone.grid, more,
    )  # fmt: skip


def splits_of(images: ImageList, seed: int) -> list[str]:
    """discovery, calibration or test for every image of every source.

    Raises:
        UserError: no image for discovery, or none for test.
    """
    splits = [
        split for name in images.sources for split in assign_splits(images.of_source(name)[1], seed)
    ]
    for needed in ("discovery", "test"):
        if needed not in splits:
            raise UserError(
                f"none of the {len(splits)} images is for {needed}, and latents are found on some images "
                "and tested on others; take more images, of train and held-out"
            )
    return splits


def _tokens(sae: SparseAutoencoder, backbone: Backbone) -> list[str]:
    """What the tokens are that the dictionary reads."""
    assert sae.cfg.tokens is not None
    chosen = backbone.token_indices(sae.cfg.tokens["which"]).tolist()
    return [backbone.token_names[position] for position in chosen]


def _class_token(sae: SparseAutoencoder, backbone: Backbone) -> int | None:
    """Place of the class token among the tokens that the dictionary reads."""
    names = _tokens(sae, backbone)
    return names.index("class") if "class" in names else None


def _patches(sae: SparseAutoencoder, backbone: Backbone) -> list[int]:
    """Places of the patches among the tokens that the dictionary reads."""
    return [place for place, name in enumerate(_tokens(sae, backbone)) if name == "patch"]


def _note(backbone: Backbone, embedder: Backbone | None) -> str:
    if embedder is None:
        return (
            f"Similarity of images is judged by {backbone.name} itself, whose latents these are, so "
            "monosemanticity is partly circular; another judge can be given as embedder."
        )
    return f"Similarity of images is judged by {embedder.name}."


def write_tables(description: Description, folder: Path) -> None:
    """parquet files and ``metrics.json``; each appears whole or not at all."""
    tables = {
        "latents": description.latents,
        "concepts": description.concepts,
        "exemplars": description.exemplars,
        "names": description.proposals,
        "coactivation": description.coactive,
        **description.more,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in tables.items():
        write_table(frame, folder / f"{name}.parquet")
    images = description.images
    index = [
        {"image_id": item.image_id, "source": name, "split": split}
        for (name, item), split in zip(images.entries, description.splits, strict=True)
    ]
    write_atomically(folder / "images.json", json.dumps(index) + "\n")
    facts = {"format_version": 1, "grid": list(description.grid)}
    write_atomically(folder / "atlas.json", json.dumps(facts) + "\n")


def _name(
    table: "pd.DataFrame", sae: SparseAutoencoder, backbone: Backbone, images: ImageList,
    store: CodeStore, columns: Columns | None, splits: list[str], scores: Sequence[ConceptScores],
    naming: NamingSettings, device: Any, seed: int,
) -> NameProposals:  # fmt: skip
    alive = (table["n_images_fired"].to_numpy() > 0).nonzero()[0]
    effects = None
    if columns is not None and "effect" in naming.proposers:
        steered = alive
        if naming.n_latents is not None and naming.n_latents < len(alive):
            by_importance = (-table["importance"].to_numpy()[alive]).argsort(kind="stable")
            steered = np.sort(alive[by_importance[: naming.n_latents]])
        effects = effects_of(
            sae, backbone, images, columns, steered, table["max"].to_numpy(),
            np.array([split != "test" for split in splits]), strength=naming.strength,
            n_images=naming.n_images, n_random=naming.n_random,
            batch_size=naming.batch_size, device=device, seed=seed,
        )  # fmt: skip
        beats = np.full(len(table), np.nan)
        beats[effects.latents] = [(effects.null_top < z).mean() for z in effects.z_kv.max(1)]
        table["effect_beats_random"] = beats
    top = top_images(store, splits)
    return propose(
        naming.proposers, store, columns, top, effects, scores, read_tree(naming.tree), alive, seed
    )


def _metrics(
    table: "pd.DataFrame", exemplars: "pd.DataFrame", scores: Sequence[ConceptScores],
    sae: SparseAutoencoder, chance: float,
) -> dict[str, float]:  # fmt: skip
    alive = ~table["dead"]
    supported = table["ms_support"] >= MIN_SUPPORT
    tops = exemplars[exemplars["role"] == "max"].groupby("latent")["image"].agg(list).tolist()
    overlap = uniqueness(tops)
    found = geometry(sae.W_dec.detach().float().cpu())
    metrics = {
        "latents/alive_fraction": float(alive.mean()),
        "latents/dense_fraction": float(table["dense"].mean()),
        "latents/named_fraction": float(table["name"].notna()[alive].mean()),
        "latents/ms_mean": float(table["ms"][supported].mean()),
        "latents/ms_chance": chance,
        "latents/ms_above_null": float((table["ms"] > table["ms_null"])[supported].mean()),
        "latents/label_entropy_mean": float(table["label_entropy"][alive].mean()),
        "latents/positional_fraction": float((table["position_information"] > 0.1)[alive].mean()),
        "latents/overlapping_pairs": overlap.share_overlapping,
        "latents/near_duplicates": float(overlap.n_near_duplicates),
        "latents/coherence": found.coherence,
        "latents/antipodal_pairs": antipodal_pairs(found),
        "latents/moran_above_null": float(
            (table["moran_z"] > ABOVE_NULL)[table["moran_images"] > 0].mean()
        ),
        "latents/stable_rank": found.stable_rank,
        "latents/effective_rank": found.effective_rank,
    }
    for one in scores:
        metrics |= concept_metrics(one)
    return metrics
