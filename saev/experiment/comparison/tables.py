"""Several dictionaries on the same images: matches, concepts one has and another lacks, drives.

Suffixes: a, c latents of the two dictionaries, b images.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from saev.backbones import Backbone
from saev.experiment.atlas.annotations import concepts_of, restrict
from saev.experiment.atlas.code_pass import CodePass, ImageList, open_store
from saev.experiment.atlas.effects import random_shifts, shifts_of
from saev.experiment.atlas.names import top_images
from saev.latents.concepts import Concepts, ConceptScores, concept_codes, score_concepts
from saev.latents.matching import Presence, bootstrap_auroc, jaccard, match, presence
from saev.latents.store import CodeStore
from saev.metrics.concept_scores import Codes
from saev.metrics.significance import auroc_max_null, auroc_max_null_of_maps
from saev.sae import SparseAutoencoder

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Member:
    """One of the dictionaries compared."""

    name: str
    sae: SparseAutoencoder
    backbone: Backbone
    store: CodeStore


@dataclass(frozen=True)
class CompareSettings:
    """What ``comparison`` in conf/compare.yaml holds."""

    n_images: int | None = None
    batch_size: int = 32
    num_workers: int = 2
    images_per_part: int = 256
    n_draws: int = 20
    n_permutations: int = 1000
    n_map_permutations: int = 200
    n_bootstrap: int = 500
    fdr: float = 0.05
    min_power: float = 0.8
    n_drives: int = 32
    drive_images: int = 8
    drive_strength: float = 1.0
    seed: int = 0


def encode_member(
    name: str, sae: SparseAutoencoder, backbone: Backbone, images: ImageList, out_dir: Path,
    settings: CompareSettings, device: Any,
) -> Member:  # fmt: skip
    """Codes of one dictionary on the common images, taken from disk where they are."""
    store = open_store(out_dir / f"codes-{name}", sae, backbone, images, "sae", sae.cfg.d_sae,
                       settings.images_per_part)  # fmt: skip
    CodePass(backbone, sae, images, sae.encode, store, batch_size=settings.batch_size,
             num_workers=settings.num_workers, device=device).run()  # fmt: skip
    return Member(name, sae, backbone, store)


def match_table(members: list[Member], settings: CompareSettings) -> "pd.DataFrame":
    """Best partners for every ordered pair of dictionaries, by the largest code per image."""
    import pandas as pd

    codes = {member.name: _image_codes(member.store) for member in members}
    splits = ["discovery"] * len(members[0].store.image_ids)
    tops = {m.name: [row[:16] for row in top_images(m.store, splits, 16).seen] for m in members}
    frames = []
    for one in members:
        for two in members:
            if one is two:
                continue
            found = match(codes[one.name], codes[two.name], n_draws=settings.n_draws,
                          seed=settings.seed)  # fmt: skip
            alive = (found.partner >= 0).nonzero()[0]
            overlap = [jaccard(tops[one.name][k], tops[two.name][found.partner[k]]) for k in alive]
            frames.append(
                pd.DataFrame(
                    {
                        "sae_a": one.name, "latent_a": alive, "sae_b": two.name,
                        "latent_b": found.partner[alive], "correlation": found.correlation[alive],
                        "correlation_null": found.null[alive], "p": found.p[alive],
                        "q": found.q[alive], "mutual": found.mutual[alive], "jaccard": overlap,
                    }
                )
            )  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def concept_comparison(
    members: list[Member], images: ImageList, settings: CompareSettings
) -> "pd.DataFrame":
    """Which concepts of the images each pair of dictionaries has, with intervals and verdicts."""
    import pandas as pd

    scored = {member.name: _scored(member, images, settings) for member in members}
    rows = []
    for index, one in enumerate(members):
        for two in members[index + 1 :]:
            for (a, a_draws, a_level), (c, c_draws, c_level) in zip(
                scored[one.name], scored[two.name], strict=True
            ):
                for k, concept in enumerate(a.concepts.names):
                    best = int(a.best()[k]), int(c.best()[k])
                    found: Presence = presence(
                        float(a.q[best[0], k]), float(c.q[best[1], k]), a_draws[k], c_draws[k],
                        a_level[k], c_level[k], fdr=settings.fdr, min_power=settings.min_power,
                    )  # fmt: skip
                    rows.append(
                        {
                            "sae_a": one.name, "sae_b": two.name, "source": a.concepts.source,
                            "kind": a.concepts.kind, "concept": concept, "verdict": found.verdict,
                            "power": found.power, "n_positive": a.n_positive["test"][k],
                            **_side("a", a, best[0], k, a_draws[k], a_level[k]),
                            **_side("b", c, best[1], k, c_draws[k], c_level[k]),
                        }
                    )  # fmt: skip
    return pd.DataFrame(rows)


def drive_table(
    members: list[Member], matches: "pd.DataFrame", images: ImageList, settings: CompareSettings,
    device: Any,
) -> "pd.DataFrame":  # fmt: skip
    """How latents of an earlier layer move latents of a later one: edit here, read there.

    For dictionaries of one model at different layers; the best-matched latents are pushed and the
    later codes read, next to random directions of the same length. Empty where there are none.
    """
    import pandas as pd

    frames = []
    ordered = sorted(members, key=lambda member: member.sae.cfg.layer or 0)
    for early, late in pairwise(ordered):
        same = early.backbone.weights == late.backbone.weights
        if not same or early.sae.cfg.layer == late.sae.cfg.layer:
            continue
        pairs = matches[(matches["sae_a"] == early.name) & (matches["sae_b"] == late.name)]
        pairs = pairs.sort_values("correlation", ascending=False).head(settings.n_drives)
        frames.append(_drives(early, late, pairs, images, settings, device))
    columns = ["sae_a", "latent_a", "sae_b", "latent_b", "drive", "drive_null", "rank"]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def _drives(
    early: Member, late: Member, pairs: "pd.DataFrame", images: ImageList,
    settings: CompareSettings, device: Any,
) -> "pd.DataFrame":  # fmt: skip
    import pandas as pd

    rng = np.random.default_rng(settings.seed)
    chosen = rng.permutation(len(images.entries))[: settings.drive_images]
    pixels = torch.stack(
        [
            early.backbone.transform(images.sources[images.entries[int(i)][0]].load(images.entries[int(i)][1]))
            for i in chosen
        ]
    ).to(device)  # fmt: skip
    latents = torch.from_numpy(pairs["latent_a"].to_numpy().copy())
    codes = early.store.image_codes()
    largest = np.zeros(early.store.n_latents, np.float32)
    np.maximum.at(largest, codes.latent, codes.max)
    shifts = shifts_of(
        early.sae, latents, settings.drive_strength, torch.from_numpy(largest)[latents]
    )
    clean = _read_late(early, late, pixels, torch.zeros_like(shifts[:1]))[0]
    moved = _read_late(early, late, pixels, shifts) - clean
    null = (
        _read_late(early, late, pixels, random_shifts(shifts, len(shifts), settings.seed)) - clean
    )
    rows = []
    for row, (a, partner) in enumerate(zip(pairs["latent_a"], pairs["latent_b"], strict=True)):
        order = moved[row].argsort(descending=True, stable=True)
        rank = int((order == int(partner)).nonzero()[0, 0])
        for which in dict.fromkeys([int(partner), *order[:3].tolist()]):
            place = int((order == which).nonzero()[0, 0])
            rows.append((int(a), which, float(moved[row, which]), float(null[:, which].max()), place,
                         which == int(partner), rank))  # fmt: skip
    columns = ["latent_a", "latent_b", "drive", "drive_null", "rank", "matched", "rank_of_match"]
    frame = pd.DataFrame(rows, columns=columns)
    frame.insert(0, "sae_a", early.name)
    frame.insert(2, "sae_b", late.name)
    return frame


@torch.no_grad()
def _read_late(
    early: Member, late: Member, pixels: torch.Tensor, shifts: torch.Tensor
) -> torch.Tensor:
    """Mean code of every later latent over normal patches, for each shift added at the earlier layer."""
    backbone, layer, target = early.backbone, early.sae.cfg.layer, late.sae.cfg.layer
    assert layer is not None and target is not None
    positions = backbone.token_indices("patch").to(pixels.device)
    rows = []
    for shift in shifts:
        seen: list[torch.Tensor] = []

        def push(acts: torch.Tensor, shift: torch.Tensor = shift) -> torch.Tensor:
            acts = acts.clone()
            normal = early.sae.is_normal(acts[:, positions])[..., None]
            acts[:, positions] += normal * shift
            return acts

        def read(acts: torch.Tensor, seen: list[torch.Tensor] = seen) -> torch.Tensor:
            seen.append(acts[:, positions].float())
            return acts

        backbone(pixels, {layer: push, target: read})
        x = seen[0]
        z = late.sae.encode(x) * late.sae.is_normal(x)[..., None]
        rows.append(z.mean((0, 1)).cpu())
    return torch.stack(rows)


def _scored(member: Member, images: ImageList, settings: CompareSettings) -> list[Any]:
    """Scores of every annotated source, with bootstrap draws and the null level of each concept."""
    found = []
    for name, source in images.sources.items():
        first, items = images.of_source(name)
        for one in concepts_of(source, items, first, member.backbone, seed=settings.seed):
            concepts = restrict(one, member.store.normal())
            scores = score_concepts(
                member.store, concepts, fdr=settings.fdr, seed=settings.seed, n_shuffles=1,
                n_permutations=(
                    settings.n_map_permutations if one.on_patches else settings.n_permutations
                ),
            )  # fmt: skip
            draws, level = _uncertainty(member.store, concepts, scores, settings)
            found.append((scores, draws, level))
    return found


def _uncertainty(
    store: CodeStore, concepts: Concepts, scores: ConceptScores, settings: CompareSettings
) -> tuple[list[np.ndarray], np.ndarray]:
    rows = concepts.rows("test", store.n_tokens)
    labels = concepts.labels[rows].toarray() > 0.5
    best = scores.best()
    wanted = np.unique(best)
    columns: dict[int, np.ndarray] = {}
    level = np.full(len(best), -np.inf)
    for first, last in store.chunks():
        codes = concept_codes(store, concepts, first, last).on(rows)
        n = last - first
        for latent in wanted[(wanted >= first) & (wanted < last)]:
            for pool in range(codes.n_latents // n):
                own = codes.latent == latent - first + pool * n
                column = np.zeros(codes.n_rows)
                column[codes.row[own]] = codes.value[own]
                columns[int(latent) + pool * store.n_latents] = column
        level = np.maximum(level, _null_level(codes, concepts, rows, store.n_tokens, settings))
    per_image = store.n_tokens if concepts.on_patches else 1
    _, cluster = np.unique(rows // per_image, return_inverse=True)
    draws = []
    for k, latent in enumerate(best):
        column = columns[int(latent) + int(scores.pool[latent, k]) * store.n_latents]
        known = labels[:, k].any() and not labels[:, k].all()
        draws.append(
            bootstrap_auroc(column, labels[:, k], cluster, settings.n_bootstrap, settings.seed)
            if known else np.zeros(0)
        )  # fmt: skip
    return draws, level


def _null_level(
    codes: Codes, concepts: Concepts, rows: np.ndarray, n_tokens: int, settings: CompareSettings
) -> np.ndarray:
    labels = concepts.labels[rows]
    if concepts.on_patches:
        _, image = np.unique(rows // n_tokens, return_inverse=True)
        null = auroc_max_null_of_maps(codes, labels, image, rows % n_tokens,
                                      settings.n_map_permutations, settings.seed)  # fmt: skip
    else:
        n_positive = np.rint(np.asarray(labels.sum(0)).ravel()).astype(np.int64)
        null = auroc_max_null(codes, n_positive, settings.n_permutations, settings.seed)
    return np.quantile(null, 0.95, axis=1)


def _side(
    name: str, scores: ConceptScores, latent: int, k: int, draws: np.ndarray, level: float
) -> dict[str, Any]:
    low, high = np.quantile(draws, [0.025, 0.975]) if len(draws) else (np.nan, np.nan)
    return {
        f"latent_{name}": latent,
        f"auroc_{name}": scores.by_split["test"].auroc[latent, k],
        f"auroc_{name}_low": low,
        f"auroc_{name}_high": high,
        f"auroc_{name}_null": level,
        f"q_{name}": scores.q[latent, k],
    }


def _image_codes(store: CodeStore) -> Codes:
    found = store.image_codes()
    return Codes(found.latent, found.image, found.max, store.n_latents, len(store.image_ids))


def summary(matches: "pd.DataFrame", concepts: "pd.DataFrame", fdr: float) -> dict[str, float]:
    """Flat numbers for the run: shares matched, and verdicts over concepts."""
    metrics: dict[str, float] = {}
    for (one, two), rows in matches.groupby(["sae_a", "sae_b"]):  # type: ignore[misc]
        prefix = f"compare/{one}-{two}"
        metrics[f"{prefix}/matched"] = float((rows["q"] <= fdr).mean())
        metrics[f"{prefix}/correlation_median"] = float(rows["correlation"].median())
        metrics[f"{prefix}/correlation_null_median"] = float(rows["correlation_null"].median())
        metrics[f"{prefix}/mutual"] = float(rows["mutual"].mean())
        metrics[f"{prefix}/jaccard_mean"] = float(rows["jaccard"].mean())
    if len(concepts):
        for (one, two), rows in concepts.groupby(["sae_a", "sae_b"]):  # type: ignore[misc]
            for verdict in ("both", "only_a", "only_b", "neither", "undecided"):
                metrics[f"compare/{one}-{two}/concepts_{verdict}"] = float(
                    (rows["verdict"] == verdict).sum()
                )
    return metrics
