"""The whole description of a dictionary: codes on disk, tables, names, baselines.

Suffixes: b images, s latents, c concepts.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int

from datamodules.images import ImageSource
from saev.backbones import Backbone
from saev.errors import UserError
from saev.experiment.atlas.annotations import assign_splits, concepts_of, restrict
from saev.experiment.atlas.code_pass import CodePass, ImageList, open_store, tokens_of
from saev.experiment.atlas.names import columns_of, effects_of, propose, top_images
from saev.latents.concepts import Concepts, ConceptScores, score_concepts
from saev.latents.naming import choose_names
from saev.latents.samples import collect_samples
from saev.latents.statistics import LatentStatistics
from saev.latents.store import CodeStore
from saev.latents.tables import (
    add_names,
    concept_table,
    exemplar_table,
    proposal_table,
    statistics_table,
)
from saev.metrics.class_mass import Tree, label_entropy
from saev.metrics.geometry import geometry
from saev.metrics.monosemanticity import MonosemanticityScore, redundancy, uniqueness
from saev.sae import SparseAutoencoder
from saev.sae.baselines import fit_baseline

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

MS_SHUFFLES = 20
MIN_SUPPORT = 10
"""Effective images below which a monosemanticity score says nothing (two images of one class by
luck score high)."""


@dataclass(frozen=True)
class AtlasSettings:
    """What ``atlas`` in conf/describe.yaml holds."""

    n_images: int | None = None
    batch_size: int = 32
    num_workers: int = 2
    images_per_part: int = 256
    shard: tuple[int, int] = (0, 1)
    n_top: int = 16
    masks: str = "majority"
    tables: Mapping[str, str] = field(default_factory=dict)
    n_permutations: int = 1000
    n_map_permutations: int = 200
    fdr: float = 0.05
    baseline_images: int = 400
    keep_codes: bool = True
    seed: int = 0


@dataclass(frozen=True)
class NamingSettings:
    """What ``naming`` in conf/describe.yaml holds."""

    proposers: Sequence[str] = ("concept", "vote", "effect", "text", "wpmi", "tree")
    min_confidence: float = 0.3
    strength: float = 2.0
    n_images: int = 8
    n_latents: int | None = None
    n_random: int = 64
    batch_size: int = 64
    vocabulary: str | None = None
    tree: str | None = None


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
        name, item = self.images.entries[image]
        names = self.images.sources[name].class_names
        return None if item.label is None or names is None else names[item.label]

    def note_of(self, source: str, kind: str) -> str:
        """What was counted, and what the same search finds with shuffled labels."""
        one = next(s for s in self.scores if (s.concepts.source, s.concepts.kind) == (source, kind))
        unit = "patches" if one.concepts.on_patches else "images"
        n = ", ".join(f"{one.n_rows[split]:,} {split}" for split in one.n_rows)
        return (
            f"{n} {unit}. With shuffled labels {100 * one.shuffled_discoveries:.1f} % of the concepts "
            "have a latent with q ≤ 0.05."
        )


def describe_dictionary(
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
        UserError: no images, annotations that do not match them, a folder of other codes.
    """
    images = ImageList.of(sources, atlas.n_images)
    concepts = _annotations(images, backbone, atlas)
    store = open_store(out_dir / "codes", sae, backbone, images, "sae", sae.cfg.d_sae,
                       atlas.images_per_part)  # fmt: skip
    run = CodePass(backbone, sae, images, sae.encode, store, batch_size=atlas.batch_size,
                   num_workers=atlas.num_workers, device=device)  # fmt: skip
    run.run(*atlas.shard)
    if missing := store.missing():
        log.info("%d parts are other processes' and not there yet; run this again", len(missing))
        return None
    splits = [
        split
        for name, source in images.sources.items()
        for split in assign_splits(images.of_source(name)[1], atlas.seed)
    ]
    labels = _labels(images)
    embedding = _embedding(store, images, embedder, atlas, device)
    statistics = _statistics(store, labels, atlas.seed)
    table = statistics_table(statistics)
    table["label_entropy"] = (
        label_entropy(statistics.mass_sc) if statistics.mass_sc.size else np.nan
    )
    samples, summary = _latent_summaries(store, embedding, atlas)
    for name, column in summary.items():
        table[name] = column
    coactive = _neighbours(table, sae, statistics)
    scores = [
        score_concepts(
            store, restrict(one, store.normal()),
            n_permutations=atlas.n_map_permutations if one.on_patches else atlas.n_permutations,
            fdr=atlas.fdr, seed=atlas.seed,
        )
        for one in concepts
    ]  # fmt: skip
    pairs = concept_table(scores)
    _best_concepts(table, scores)
    proposals = _name(
        table, sae, backbone, images, store, splits, scores, naming, device, atlas.seed
    )
    names = choose_names(
        proposals, store.n_latents, fdr=atlas.fdr, min_confidence=naming.min_confidence
    )
    add_names(table, names)
    exemplars = exemplar_table(samples, store.image_ids)
    metrics = _metrics(table, exemplars, scores, sae, summary["chance"][0])
    table = table.drop(columns="chance")
    return Description(
        table, pairs, exemplars, proposal_table(proposals), coactive, metrics, scores, images, store,
        splits, statistics, _note(backbone, embedder), min(atlas.baseline_images, len(splits)),
    )  # fmt: skip


def _note(backbone: Backbone, embedder: Backbone | None) -> str:
    if embedder is None:
        return (
            f"Likeness of images is judged by {backbone.name} itself, whose latents these are, so "
            "monosemanticity is partly circular; another judge can be given as embedder."
        )
    return f"Likeness of images is judged by {embedder.name}."


def baseline_table(
    description: Description,
    sae: SparseAutoencoder,
    backbone: Backbone,
    out_dir: Path,
    atlas: AtlasSettings,
    device: str | torch.device = "cpu",
) -> "pd.DataFrame":
    """Metric × {sae, untrained, raw, pca, random} on a share of the images, all by the same code."""
    import pandas as pd

    images = _subset(description, atlas.baseline_images)
    sample = tokens_of(backbone, sae, images, 64, atlas.seed)
    columns = {}
    for name in ("sae", "untrained", "raw", "pca", "random"):
        reading = sae.to(device)
        if name == "untrained":
            reading = sae.untrained(atlas.seed)
        elif name != "sae":
            reading = fit_baseline(name, sae, sample, atlas.seed, dense=True)
        n_units, encoder = reading.cfg.d_sae, reading.encode
        store = open_store(out_dir / f"codes-{name}", sae, backbone, images, name, n_units,
                           atlas.images_per_part)  # fmt: skip
        CodePass(backbone, sae, images, encoder, store, batch_size=atlas.batch_size,
                 num_workers=atlas.num_workers, device=device).run()  # fmt: skip
        columns[name] = _unit_metrics(store, images, backbone, atlas)
        if not atlas.keep_codes:
            remove_codes(store)
    return pd.DataFrame(columns).rename_axis("metric").reset_index()


def remove_codes(store: CodeStore) -> None:
    """Deletes a store's files."""
    for path in (*(store.path(part) for part in range(store.n_parts)), store.folder / "codes.json"):
        path.unlink(missing_ok=True)
    store.folder.rmdir()


def write_tables(description: Description, folder: Path) -> None:
    """parquet files and ``metrics.json``; each appears whole or not at all."""
    tables = {
        "latents": description.latents,
        "concepts": description.concepts,
        "exemplars": description.exemplars,
        "names": description.proposals,
        "coactivation": description.coactive,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in tables.items():
        partial = folder / f"{name}.parquet.partial"
        frame.to_parquet(partial, index=False)
        partial.replace(folder / f"{name}.parquet")
    images = description.images
    index = [
        {"image_id": item.image_id, "source": name, "split": split}
        for (name, item), split in zip(images.entries, description.splits, strict=True)
    ]
    (folder / "images.json").write_text(json.dumps(index) + "\n", encoding="utf-8")


def read_tree(path: str | None) -> Tree | None:
    """A hierarchy from a CSV file with columns child and parent."""
    if path is None:
        return None
    import pandas as pd

    try:
        frame = pd.read_csv(path, dtype=str)
        return Tree(dict(zip(frame["child"], frame["parent"], strict=True)))
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            f"naming.tree={path} is not a CSV file with columns child and parent: {error}"
        ) from error


def read_vocabulary(path: str | None) -> list[str] | None:
    """One candidate name per line."""
    if path is None:
        return None
    if not Path(path).is_file():
        raise UserError(
            f"naming.vocabulary={path} is not a file; give a text file, a name per line"
        )
    words = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    words = list(dict.fromkeys(word for word in words if word))
    if len(words) < 2:
        raise UserError(f"naming.vocabulary={path} holds {len(words)} names; give two or more")
    return words


def _annotations(images: ImageList, backbone: Backbone, atlas: AtlasSettings) -> list[Concepts]:
    if unknown := sorted(set(atlas.tables) - set(images.sources)):
        raise UserError(
            f"atlas.tables names the source {unknown[0]!r}; there are {', '.join(images.sources)}"
        )
    found = []
    for name, source in images.sources.items():
        first, items = images.of_source(name)
        if items:
            found += concepts_of(
                source, items, first, backbone, masks=atlas.masks, table=atlas.tables.get(name),
                seed=atlas.seed,
            )  # fmt: skip
    return found


def _labels(images: ImageList) -> Int[np.ndarray, " b"]:
    """Class of every image, counted through all sources; −1 without one."""
    offset, offsets = 0, {}
    for name, source in images.sources.items():
        offsets[name] = offset
        offset += len(source.class_names or [])
    return np.array(
        [-1 if item.label is None else offsets[name] + item.label for name, item in images.entries]
    )


def _embedding(
    store: CodeStore,
    images: ImageList,
    embedder: Backbone | None,
    atlas: AtlasSettings,
    device: Any,
) -> Float[np.ndarray, "b e"]:
    """Of every image, by another model where one is given: a model's likeness of its own latents'
    images is partly circular."""
    if embedder is None:
        return store.embeddings()
    path = store.folder / f"embedding-{embedder.weights['sha256'] or embedder.name}.npy"
    if path.is_file():
        return np.load(path)
    from torch.utils.data import DataLoader

    from datamodules.images import ImageDataset
    from saev.experiment.atlas.code_pass import _Joined

    loader = DataLoader(
        _Joined(images, range(len(images.entries)), embedder.transform),
        batch_size=atlas.batch_size, num_workers=atlas.num_workers, collate_fn=ImageDataset.collate,
    )  # fmt: skip
    embedder.to(device)
    found: np.ndarray | None = None
    for batch in loader:
        if not batch.positions:
            continue
        with torch.no_grad():
            pooled = embedder(batch.images.to(device)).pooled.float().cpu().numpy()
        if found is None:
            found = np.zeros((len(images.entries), pooled.shape[1]), np.float32)
        found[batch.positions] = pooled
    assert found is not None
    np.save(path, found)
    return found


def _statistics(store: CodeStore, labels: Int[np.ndarray, " b"], seed: int) -> LatentStatistics:
    statistics = LatentStatistics(
        store.n_latents, store.n_tokens, int(labels.max(initial=-1)) + 1, seed
    )
    for span, part in store.parts():
        statistics.update(part, span.start, labels[span.start : span.stop])
    return statistics


def monosemanticity(
    store: CodeStore, embedding: Float[np.ndarray, "b e"], seed: int
) -> dict[str, Float[np.ndarray, " s"]]:
    """Score, effective support, chance level, and the 95 % level with images shuffled."""
    keep = np.linalg.norm(embedding, axis=1) > 0
    place = keep.cumsum() - 1
    shown = torch.from_numpy(embedding[keep])
    rng = np.random.default_rng([seed, 5])
    shuffles = [rng.permutation(len(shown)) for _ in range(MS_SHUFFLES)]
    columns: dict[str, list[np.ndarray]] = {"ms": [], "ms_null": [], "ms_support": []}
    chance = float("nan")
    for first, last in store.chunks():
        codes = store.image_codes(first, last)
        mine = keep[codes.image]
        latent = torch.from_numpy(codes.latent[mine] - first)
        image, value = torch.from_numpy(place[codes.image[mine]]), torch.from_numpy(codes.max[mine])
        drawn = []
        for order in (np.arange(len(shown)), *shuffles):
            metric = MonosemanticityScore(last - first, shown.shape[1])
            metric.update(latent, image, value, shown[torch.from_numpy(order)])
            found = metric.compute()
            drawn.append(found.ms.numpy())
            chance = float(found.chance)
        null = np.stack(drawn[1:])
        columns["ms"].append(drawn[0])
        columns["ms_null"].append(null.mean(0) + 1.645 * null.std(0, ddof=1))
        columns["ms_support"].append(found.support.numpy())
    joined = {name: np.concatenate(values) for name, values in columns.items()}
    joined["chance"] = np.full(store.n_latents, chance)
    joined["ms_corrected"] = (joined["ms"] - chance) / (1 - chance)
    return joined


def _latent_summaries(
    store: CodeStore, embedding: Float[np.ndarray, "b e"], atlas: AtlasSettings
) -> tuple[list[Any], dict[str, Float[np.ndarray, " s"]]]:
    samples = [
        collect_samples(
            store.image_codes(first, last), range(first, last), embedding, n_top=atlas.n_top,
            seed=atlas.seed,
        )
        for first, last in store.chunks()
    ]  # fmt: skip
    return samples, monosemanticity(store, embedding, atlas.seed)


def _neighbours(
    table: "pd.DataFrame", sae: SparseAutoencoder, statistics: LatentStatistics, n: int = 8
) -> "pd.DataFrame":
    """Nearest latents by atom and by firing on the same tokens."""
    import pandas as pd

    atoms = torch.nn.functional.normalize(sae.W_dec.detach().float().cpu(), dim=-1)
    found = geometry(atoms)
    table["nearest_cosine"] = found.nearest.numpy()
    energy = statistics.squares_s * sae.W_dec.detach().float().cpu().square().sum(1).numpy()
    table["importance"] = energy / max(energy.sum(), 1e-12)
    alive = (statistics.fired_s > 0).nonzero()[0]
    rows = []
    for block in np.array_split(alive, max(1, len(alive) // 1024)):
        cosine = (atoms[block] @ atoms.T).numpy()
        together = statistics.coactivation(block)
        for kind, likeness in (("atom", cosine), ("coactivation", together)):
            likeness[np.arange(len(block)), block] = -np.inf
            if kind == "coactivation":
                likeness[:, statistics.fired_s < 10] = -np.inf  # the sketch is noise there
            best = np.argpartition(-likeness, min(n, likeness.shape[1] - 1), axis=1)[:, :n]
            for row, latent in enumerate(block):
                order = best[row][(-likeness[row, best[row]]).argsort(kind="stable")]
                rows += [
                    (int(latent), kind, rank, int(other), float(likeness[row, other]))
                    for rank, other in enumerate(order)
                    if likeness[row, other] > -np.inf
                ]
    return pd.DataFrame(rows, columns=["latent", "kind", "rank", "neighbour", "likeness"])


def _best_concepts(table: "pd.DataFrame", scores: Sequence[ConceptScores]) -> None:
    """The concept that each latent tells best on the discovery split, and what the test split says."""
    n = len(table)
    columns: dict[str, Any] = {
        "best_concept": np.full(n, None, object), "concept_auroc": np.full(n, np.nan),
        "concept_ap": np.full(n, np.nan), "concept_f1": np.full(n, np.nan),
        "concept_q": np.full(n, np.nan),
    }  # fmt: skip
    strongest = np.full(n, -np.inf)
    for one in scores:
        found = np.nan_to_num(one.by_split["discovery"].f1, nan=-1)
        concept = found.argmax(1)
        value = found[np.arange(n), concept]
        better = (value > strongest) & (value > 0)
        strongest = np.where(better, value, strongest)
        at = (better.nonzero()[0], concept[better])
        columns["best_concept"][better] = [one.concepts.names[c] for c in at[1]]
        columns["concept_auroc"][better] = one.by_split["test"].auroc[at]
        columns["concept_ap"][better] = one.by_split["test"].ap[at]
        columns["concept_f1"][better] = one.test.f1[at]
        columns["concept_q"][better] = one.q[at]
    for name, column in columns.items():
        table[name] = column


def _name(
    table: "pd.DataFrame", sae: SparseAutoencoder, backbone: Backbone, images: ImageList,
    store: CodeStore, splits: list[str], scores: Sequence[ConceptScores], naming: NamingSettings,
    device: Any, seed: int,
) -> list[Any]:  # fmt: skip
    alive = (table["n_images_fired"].to_numpy() > 0).nonzero()[0]
    columns = columns_of(backbone, store, read_vocabulary(naming.vocabulary))
    effects = None
    if columns is not None and "effect" in naming.proposers:
        pushed = alive
        if naming.n_latents is not None and naming.n_latents < len(alive):
            by_importance = (-table["importance"].to_numpy()[alive]).argsort(kind="stable")
            pushed = np.sort(alive[by_importance[: naming.n_latents]])
        effects = effects_of(
            sae, backbone, images, columns, pushed, table["max"].to_numpy(),
            strength=naming.strength, n_images=naming.n_images, n_random=naming.n_random,
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
        "latents/stable_rank": found.stable_rank,
        "latents/effective_rank": found.effective_rank,
    }
    for one in scores:
        metrics |= _concept_metrics(one)
    return metrics


def _concept_metrics(scores: ConceptScores) -> dict[str, float]:
    """Test scores of the latents chosen on the discovery split."""
    prefix = f"concepts/{scores.concepts.source}/{scores.concepts.kind}"
    at = np.arange(len(scores.concepts.names))
    auroc = scores.by_split["test"].auroc[scores.best("auroc"), at]
    known = ~np.isnan(auroc)
    if not known.any():
        return {}
    ap = scores.by_split["test"].ap[scores.best("ap"), at]
    f1 = scores.test.f1[scores.best("f1"), at]
    q = scores.q[scores.best("auroc"), at]
    return {
        f"{prefix}/n": float(known.sum()),
        f"{prefix}/auroc_mean": float(auroc[known].mean()),
        f"{prefix}/auroc_above_0.9": float((auroc[known] >= 0.9).mean()),
        f"{prefix}/map": float(ap[known].mean()),
        f"{prefix}/coverage_at_0.3": float((ap[known] >= 0.3).mean()),
        f"{prefix}/f1_mean": float(f1[known].mean()),
        f"{prefix}/discoveries": float((q[known] <= 0.05).mean()),
        f"{prefix}/discoveries_shuffled": scores.shuffled_discoveries,
    }


def _subset(description: Description, n_images: int) -> ImageList:
    return ImageList.of(description.images.sources, n_images)


def _unit_metrics(
    store: CodeStore, images: ImageList, backbone: Backbone, atlas: AtlasSettings
) -> dict[str, float]:
    embedding = store.embeddings()
    codes = store.image_codes()
    found = monosemanticity(store, embedding, atlas.seed)
    enough = found["ms_support"] >= MIN_SUPPORT
    statistics = _statistics(store, _labels(images), atlas.seed)
    fired = statistics.fired_s > 0
    ordered = np.lexsort((-codes.max, codes.latent))
    tops = [
        codes.image[chunk[:16]].tolist()
        for chunk in np.split(ordered, np.searchsorted(codes.latent, np.arange(1, store.n_latents)))
    ]
    centres = _centres(tops, embedding)
    metrics = {
        "L0 per token": float(statistics.fired_s.sum() / max(statistics.n_normal, 1)),
        "alive units": float(fired.mean()),
        "MS, support ≥ 10": float(np.nanmean(found["ms"][enough]))
        if enough.any()
        else float("nan"),
        "MS chance": float(found["chance"][0]),
        "near-duplicate pairs": float(uniqueness(tops).n_near_duplicates),
        "redundancy": redundancy(centres) if len(centres) > 1 else float("nan"),
    }
    if statistics.mass_sc.size:
        entropy = label_entropy(statistics.mass_sc)
        metrics["label entropy, nats"] = float(np.nanmean(entropy))
    for one in _annotations(images, backbone, atlas):
        scores = score_concepts(
            store, restrict(one, store.normal()), n_permutations=19, n_shuffles=1, seed=atlas.seed
        )
        for key, value in _concept_metrics(scores).items():
            name = key.rsplit("/", 1)[1]
            if name in ("auroc_mean", "map", "coverage_at_0.3", "f1_mean"):
                metrics[f"{one.source} {one.kind}: {name}"] = value
    return metrics


def _centres(tops: list[list[int]], embedding: Float[np.ndarray, "b e"]) -> Any:
    unit = embedding / np.maximum(np.linalg.norm(embedding, axis=1, keepdims=True), 1e-12)
    unit = unit - unit.mean(0)
    return np.stack([unit[row].mean(0) for row in tops if row]) if any(tops) else np.zeros((0, 1))
