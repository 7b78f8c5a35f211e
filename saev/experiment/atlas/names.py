"""Every proposer of names on one dictionary, and what they agree to call its latents.

Suffixes: s latents, b images, v columns, c concepts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import sparse
from torch import Tensor

from saev.backbones import Backbone
from saev.backbones.base import BackboneOutput
from saev.errors import UserError
from saev.experiment.atlas.code_pass import ImageList
from saev.experiment.atlas.effects import prepare, push_effects, random_shifts, shifts_of
from saev.latents.concepts import ConceptScores
from saev.latents.naming import (
    Proposal,
    proposals_of,
    soft_wpmi,
    standardized,
    vote,
    weighted_similarity,
)
from saev.latents.store import CodeStore
from saev.metrics.class_mass import Tree, back_off
from saev.sae import SparseAutoencoder

PROPOSERS = ("concept", "vote", "effect", "text", "wpmi", "tree")


@dataclass(frozen=True)
class Columns:
    """Candidate names and how present each is in every image."""

    names: list[str]
    presence_bv: Float[np.ndarray, "b v"]
    """Probability of the name, by the model's classifier or its text tower."""
    similarity_bv: Float[np.ndarray, "b v"] | None
    """Cosine to the text; None without a text tower."""
    readout: Any
    """BackboneOutput → logits of the same columns."""


def columns_of(
    backbone: Backbone, store: CodeStore, vocabulary: Sequence[str] | None
) -> Columns | None:
    """The model's own classes, or a vocabulary through its text tower; None where it has neither.

    Raises:
        UserError: a vocabulary for a model without a text tower.
    """
    if vocabulary is not None:
        if not backbone.has_text:
            raise UserError(
                f"naming.vocabulary needs a model with a text tower, and {backbone.name} has none"
            )
        from open_clip import SIMPLE_IMAGENET_TEMPLATES

        tower = backbone.text_tower()
        weights_ev: Tensor = tower.class_weights(
            list(vocabulary), SIMPLE_IMAGENET_TEMPLATES
        ).float()
        unit = torch.nn.functional.normalize(torch.from_numpy(store.embeddings()), dim=-1)
        cosine = (unit @ weights_ev).numpy()
        logits = tower.logit_scale * cosine

        def read(output: BackboneOutput) -> Tensor:
            image = torch.nn.functional.normalize(output.pooled.float(), dim=-1)
            return tower.logit_scale * image @ weights_ev.to(image.device)

        return Columns(list(vocabulary), _softmax(logits), cosine, read)
    logits = store.logits()
    if logits is None or backbone.class_names is None:
        return None
    names = [name.split(",")[0].replace("_", " ") for name in backbone.class_names]
    return Columns(
        _distinct(names, backbone.class_names), _softmax(logits.astype(np.float32)), None,
        lambda output: output.logits,
    )  # fmt: skip


class TopImages(NamedTuple):
    """Strongest images of every latent on two disjoint sets of images."""

    seen: list[list[int]]
    """Discovery and calibration images, positions in the store."""
    test: list[list[int]]
    """Test images, positions among the test images."""
    is_test: Bool[np.ndarray, " b"]


def top_images(store: CodeStore, splits: Sequence[str], n: int = 32) -> TopImages:
    """By the largest code; equal codes keep the order of images."""
    is_test = np.array([split == "test" for split in splits])
    place = is_test.cumsum() - 1
    seen: list[list[int]] = []
    test: list[list[int]] = []
    for first, last in store.chunks():
        codes = store.image_codes(first, last)
        order = np.lexsort((-codes.max, codes.latent))
        latent, image = codes.latent[order], codes.image[order]
        for found, wanted, number in (
            (seen, ~is_test, np.arange(len(is_test))),
            (test, is_test, place),
        ):
            mine = wanted[image]
            bounds = np.searchsorted(latent[mine], np.arange(first, last + 1))
            numbers = number[image[mine]]
            found += [numbers[a : min(b, a + n)].tolist() for a, b in pairwise(bounds)]
    return TopImages(seen, test, is_test)


class Effects(NamedTuple):
    """What pushing each latent does to every column."""

    latents: Int[np.ndarray, " k"]
    change_kv: Float[np.ndarray, "k v"]
    z_kv: Float[np.ndarray, "k v"]
    """In standard deviations over all pushed latents."""
    null_top: Float[np.ndarray, " n"]
    """Largest z of each random direction of matched length."""


def effects_of(
    sae: SparseAutoencoder,
    backbone: Backbone,
    images: ImageList,
    columns: Columns,
    latents: Int[np.ndarray, " k"],
    max_s: Float[np.ndarray, " s"],
    *,
    strength: float,
    n_images: int,
    n_random: int,
    batch_size: int,
    device: str | torch.device,
    seed: int = 0,
) -> Effects:
    """Pushes latents at all normal tokens of ``n_images`` random images and reads the columns."""
    assert sae.cfg.layer is not None
    rng = np.random.default_rng([seed, 17])
    chosen = rng.permutation(len(images.entries))[:n_images]
    pixels = torch.stack([_pixels(images, int(index), backbone) for index in chosen]).to(device)
    pushed = prepare(pixels, sae, backbone, columns.readout)
    shifts = shifts_of(sae, torch.from_numpy(latents), strength, torch.from_numpy(max_s[latents]))
    change = push_effects(pushed, shifts, sae.cfg.layer, backbone, columns.readout, batch_size)
    random = push_effects(
        pushed, random_shifts(shifts, n_random, seed), sae.cfg.layer, backbone, columns.readout,
        batch_size, "pushing random directions",
    )  # fmt: skip
    change_kv, random_nv = change.numpy(), random.numpy()
    z_kv = standardized(change_kv, change_kv)
    return Effects(latents, change_kv, z_kv, standardized(random_nv, change_kv).max(1))


def propose(
    proposers: Sequence[str],
    store: CodeStore,
    columns: Columns | None,
    top: TopImages,
    effects: Effects | None,
    concepts: Sequence[ConceptScores],
    tree: Tree | None,
    alive: Int[np.ndarray, " k"],
    seed: int = 0,
) -> list[Proposal]:
    """All proposals of all proposers that can say something about this model."""
    unknown = set(proposers) - set(PROPOSERS)
    if unknown:
        raise UserError(
            f"naming.proposers holds {sorted(unknown)[0]!r}; choose among {', '.join(PROPOSERS)}"
        )
    found: list[Proposal] = []
    if "concept" in proposers:
        found += [p for scores in concepts for p in concept_proposals(scores)]
    if columns is None:
        return found
    presence, seen = columns.presence_bv, ~top.is_test
    seen_top, test_top = ([rows[k] for k in alive] for rows in (top.seen, top.test))
    scores: dict[str, Float[np.ndarray, "k v"]] = {}
    if "vote" in proposers:
        scores["vote"] = vote(presence, seen_top)
    if columns.similarity_bv is not None and "text" in proposers:
        scores["text"] = weighted_similarity(_codes(store, alive, seen), columns.similarity_bv)
    if columns.similarity_bv is not None and "wpmi" in proposers:
        scores["wpmi"] = soft_wpmi(columns.similarity_bv, seen_top)
    for proposer, score in scores.items():
        found += proposals_of(
            proposer, score, columns.names, alive, presence[top.is_test], test_top, seed=seed
        )
    if effects is not None and "effect" in proposers:
        tops = [top.test[k] for k in effects.latents]
        found += proposals_of(
            "effect", effects.z_kv, columns.names, effects.latents, presence[top.is_test], tops,
            seed=seed,
        )  # fmt: skip
    if tree is not None and "tree" in proposers:
        found += _tree_proposals(tree, columns, seen_top, test_top, top.is_test, alive, seed)
    return found


def concept_proposals(scores: ConceptScores) -> list[Proposal]:
    """Each latent's best concept on the discovery split.

    Confidence is the F1 on the test split above that of calling every row positive, 2π/(1 + π) for
    prevalence π, as a share of what is left to 1: a latent that fires everywhere has none.
    """
    chance = {}
    for split in ("discovery", "test"):
        prevalence = scores.n_positive[split] / max(scores.n_rows[split], 1)
        chance[split] = 2 * prevalence / (1 + prevalence)
    discovery = _above(np.nan_to_num(scores.by_split["discovery"].f1), chance["discovery"])
    test = _above(scores.test.f1, chance["test"])
    best = discovery.argmax(1)
    return [
        Proposal(
            latent, "concept", 0, scores.concepts.names[c], float(discovery[latent, c]),
            float(max(test[latent, c], 0.0)), float(scores.q[latent, c]),
        )
        for latent, c in enumerate(best)
        if discovery[latent, c] > 0
    ]  # fmt: skip


def _above(
    f1: Float[np.ndarray, "s c"], chance: Float[np.ndarray, " c"]
) -> Float[np.ndarray, "s c"]:
    return (f1 - chance) / np.maximum(1 - chance, 1e-9)


def _tree_proposals(
    tree: Tree, columns: Columns, seen: list[list[int]], test: list[list[int]],
    is_test: Bool[np.ndarray, " b"], alive: Int[np.ndarray, " k"], seed: int,
) -> list[Proposal]:  # fmt: skip
    """The deepest inner node that holds 90 % of what the strongest images show."""
    known = [v for v, name in enumerate(columns.names) if name in tree.parent]
    voted = vote(columns.presence_bv, seen)
    nodes = sorted({node for v in known for node in tree.path(columns.names[v])[1:-1]})
    number = {node: index for index, node in enumerate(nodes)}
    under = np.zeros((len(columns.names), len(nodes)))
    for v in known:
        for node in tree.path(columns.names[v])[1:-1]:
            under[v, number[node]] = 1
    score = np.zeros((len(alive), len(nodes)))
    for row in range(len(alive)):
        mass = {columns.names[v]: float(voted[row, v]) for v in known if voted[row, v] > 1e-4}
        held = back_off(mass, tree) if mass else None
        if held is not None and held[0] in number:
            score[row, number[held[0]]] = held[1]
    named = score.max(1, initial=0) > 0
    rows = named.nonzero()[0]
    presence = columns.presence_bv[is_test] @ under
    return proposals_of(
        "tree", score[rows], [f"a kind of {node}" for node in nodes], alive[rows], presence,
        [test[row] for row in rows], n_best=1, seed=seed,
    )  # fmt: skip


def _codes(
    store: CodeStore, alive: Int[np.ndarray, " k"], seen: Bool[np.ndarray, " b"]
) -> sparse.csr_matrix:
    codes = store.image_codes()
    shape = (store.n_latents, len(store.image_ids))
    matrix = sparse.csr_matrix(
        (codes.max * seen[codes.image], (codes.latent, codes.image)), shape=shape
    )
    return matrix[alive]


def _pixels(images: ImageList, index: int, backbone: Backbone) -> Tensor:
    name, item = images.entries[index]
    return backbone.transform(images.sources[name].load(item))


def _softmax(logits: Float[np.ndarray, "b v"]) -> Float[np.ndarray, "b v"]:
    return torch.from_numpy(np.asarray(logits, np.float32)).softmax(-1).numpy()


def _distinct(short: list[str], full: list[str]) -> list[str]:
    """Short names, the full one where two classes share a short one ("crane")."""
    return [s if short.count(s) == 1 else f for s, f in zip(short, full, strict=True)]
