"""Baseline table: metric × {this SAE, untrained SAE, raw units, PCA, random directions}.

Suffixes: b images, s units.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from saev.atlas.best_concepts import annotations, concept_metrics
from saev.atlas.samples import centred
from saev.atlas.settings import AtlasSettings
from saev.atlas.summaries import MIN_SUPPORT, ImageSimilarity, labels_per_image, statistics_of
from saev.backbones import Backbone
from saev.codes.code_pass import CodePass, Encoder, open_code_store, tokens_of
from saev.codes.images import ImageList
from saev.codes.store import CodeStore
from saev.concepts.annotations import restrict
from saev.concepts.best_latents import Concepts, score_concepts
from saev.metrics.class_mass import label_entropy
from saev.metrics.monosemanticity import redundancy, uniqueness
from saev.sae import SparseAutoencoder
from saev.sae.baselines import fit_baseline

if TYPE_CHECKING:
    import pandas as pd

PCA_IMAGES = 64
"""Whose tokens the principal components are taken of: 12,000 for 192 to 1,024 dimensions."""
SHOWN = ("auroc_mean", "map", "coverage_at_0.3", "f1_mean")


def unit_baselines(
    sae: SparseAutoencoder,
    backbone: Backbone,
    images: ImageList,
    out_dir: Path,
    atlas: AtlasSettings,
    device: str | torch.device = "cpu",
) -> "pd.DataFrame":
    """Every reading of the same activations of the same images, by the same code; the backbone runs
    once for all of them."""
    import pandas as pd

    sample = tokens_of(backbone, sae, images, PCA_IMAGES, atlas.seed, batch_size=atlas.batch_size)
    readings = {"sae": sae, "untrained": sae.untrained(atlas.seed, sample)}
    for kind in ("raw", "pca", "random"):
        readings[kind] = fit_baseline(kind, sae, sample, atlas.seed, dense=True)
    targets: dict[str, tuple[Encoder, CodeStore]] = {}
    for name, reading in readings.items():
        store = open_code_store(out_dir / f"codes-{name}", sae, backbone, images, name,
                           reading.cfg.d_sae, atlas.images_per_part)  # fmt: skip
        targets[name] = (reading.to(device).encode, store)
    (first, store), *also = targets.values()
    CodePass(backbone, sae, images, first, store, also=also, batch_size=atlas.batch_size,
             num_workers=atlas.num_workers, device=device).run()  # fmt: skip
    concepts = annotations(images, backbone, atlas)
    columns = {}
    for name, (_, store) in targets.items():
        columns[name] = _unit_metrics(store, images, concepts, atlas)
        if not atlas.keep_codes:
            store.remove()
    return pd.DataFrame(columns).rename_axis("metric").reset_index()


def _unit_metrics(
    store: CodeStore, images: ImageList, concepts: Sequence[Concepts], atlas: AtlasSettings
) -> dict[str, float]:
    embedding = store.embeddings()
    codes = store.image_codes()
    similarity = ImageSimilarity(embedding)
    similarity.add(codes, 0, store.n_latents)
    found, chance = similarity.columns()
    enough = found["ms_support"] >= MIN_SUPPORT
    statistics = statistics_of(store, labels_per_image(images), atlas.seed)
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
        "MS, support ≥ 10": _mean(found["ms"][enough]),
        "MS above its 95 % null": _mean((found["ms"] > found["ms_null"])[enough]),
        "MS chance": chance,
        "near-duplicate pairs": float(uniqueness(tops).n_near_duplicates),
        "redundancy": redundancy(centres) if len(centres) > 1 else float("nan"),
    }
    if statistics.mass_sc.size:
        metrics["label entropy, nats"] = _mean(label_entropy(statistics.mass_sc)[fired])
    normal = store.normal()
    for one in concepts:
        scores = score_concepts(
            store, restrict(one, normal), n_permutations=19, n_shuffles=1, seed=atlas.seed
        )
        for key, value in concept_metrics(scores).items():
            name = key.rsplit("/", 1)[1]
            if name in SHOWN:
                metrics[f"{one.source} {one.kind}: {name}"] = value
    return metrics


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _centres(tops: list[list[int]], embedding: Float[np.ndarray, "b e"]) -> Any:
    centred_be = centred(embedding)
    rows = [centred_be[row].mean(0) for row in tops if row]
    return np.stack(rows) if rows else np.zeros((0, 1))
