"""Proposers of names, and what they agree to call each latent.

Suffixes: s latents, b images, v columns, c concepts.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import sparse
from torch import Tensor

from saev.atlas.names.candidate_names import Columns
from saev.atlas.names.naming import (
    NameProposal,
    over_proposers,
    proposals_of,
    soft_wpmi,
    standardized,
    vote,
    weighted_similarity,
)
from saev.backbones import Backbone
from saev.codes.exemplars import TopImages
from saev.codes.images import ImageList
from saev.codes.store import CodeStore
from saev.concepts.best_latents import ConceptScores
from saev.editing.steering_effects import prepare, random_shifts, shifts_of, steer_effects
from saev.errors import UserError
from saev.metrics.class_mass import Tree, back_off
from saev.sae import SparseAutoencoder

PROPOSERS = ("concept", "vote", "effect", "text", "wpmi", "tree")


class Effects(NamedTuple):
    """Effect of steering each latent on every column."""

    latents: Int[np.ndarray, " k"]
    change_kv: Float[np.ndarray, "k v"]
    z_kv: Float[np.ndarray, "k v"]
    """In standard deviations over all steered latents."""
    null_top: Float[np.ndarray, " n"]
    """Largest z of each random direction of matched length."""


def effects_of(
    sae: SparseAutoencoder,
    backbone: Backbone,
    images: ImageList,
    columns: Columns,
    latents: Int[np.ndarray, " k"],
    max_s: Float[np.ndarray, " s"],
    allowed_b: Bool[np.ndarray, " b"],
    *,
    strength: float,
    n_images: int,
    n_random: int,
    batch_size: int,
    device: str | torch.device,
    seed: int = 0,
) -> Effects:
    """Steers latents at all normal tokens of ``n_images`` random images and reads the columns.

    Args:
        allowed_b: images that may be steered: those that do not judge names.
    """
    assert sae.cfg.layer is not None
    rng = np.random.default_rng([seed, 17])
    chosen = rng.permutation(allowed_b.nonzero()[0])[:n_images]
    pixels = torch.stack([_pixels(images, int(index), backbone) for index in chosen]).to(device)
    unsteered = prepare(pixels, sae, backbone, columns.readout)
    shifts = shifts_of(
        sae, torch.from_numpy(latents), strength, torch.from_numpy(max_s[latents]),
        unsteered.acts_btd[:, unsteered.positions_p],
    )  # fmt: skip
    change = steer_effects(unsteered, shifts, sae.cfg.layer, backbone, columns.readout, batch_size)
    random = steer_effects(
        unsteered, random_shifts(shifts, n_random, seed), sae.cfg.layer, backbone, columns.readout,
        batch_size, "steering along random directions",
    )  # fmt: skip
    change_kv, random_nv = change.numpy(), random.numpy()
    z_kv = standardized(change_kv, change_kv)
    return Effects(latents, change_kv, z_kv, standardized(random_nv, change_kv).max(1))


class NameProposals(NamedTuple):
    """What all proposers say."""

    found: list[NameProposal]
    shuffled: list[NameProposal]
    """The same first choices, judged on held-out images dealt out to the latents at random."""


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
) -> NameProposals:
    """All proposals of all proposers that can say something about this model."""
    unknown = set(proposers) - set(PROPOSERS)
    if unknown:
        raise UserError(
            f"naming.proposers holds {sorted(unknown)[0]!r}; choose among {', '.join(PROPOSERS)}"
        )
    by_labels = [concept_proposals(one) for one in concepts] if "concept" in proposers else []
    if columns is None:
        return NameProposals(over_proposers([], by_labels), [])
    judged: list[list[NameProposal]] = []
    shuffled: list[list[NameProposal]] = []
    presence, held_out = columns.presence_bv, columns.presence_bv[top.is_test]
    dealt = np.random.default_rng([seed, 23]).permutation(len(held_out))

    def judge(proposer: str, score: Float[np.ndarray, "k v"], names: list[str],
              latents: Int[np.ndarray, " k"], presence_bv: Float[np.ndarray, "b v"],
              n_best: int = 10) -> None:  # fmt: skip
        tops = [top.test[k] for k in latents]
        judged.append(
            proposals_of(
                proposer, score, names, latents, presence_bv, tops, n_best=n_best, seed=seed
            )
        )
        tops = [dealt[row].tolist() for row in tops]
        shuffled.append(
            proposals_of(proposer, score, names, latents, presence_bv, tops, n_best=1, seed=seed)
        )

    seen_top = [top.seen[k] for k in alive]
    if "vote" in proposers:
        judge("vote", vote(presence, seen_top), columns.names, alive, held_out)
    if columns.similarity_bv is not None and "text" in proposers:
        score = text_similarity(store, alive, ~top.is_test, columns.similarity_bv)
        judge("text", score, columns.names, alive, held_out)
    if columns.similarity_bv is not None and "wpmi" in proposers:
        score = soft_wpmi(columns.similarity_bv, seen_top)
        judge("wpmi", score, columns.names, alive, held_out)
    if effects is not None and "effect" in proposers:
        judge("effect", effects.z_kv, columns.names, effects.latents, held_out)
    if tree is not None and "tree" in proposers:
        score, nodes, under = _tree_scores(tree, columns, seen_top)
        rows = (score.max(1, initial=0) > 0).nonzero()[0]
        names = [f"a kind of {node}" for node in nodes]
        judge("tree", score[rows], names, alive[rows], held_out @ under, n_best=1)
    return NameProposals(over_proposers(judged, by_labels),
                         over_proposers(shuffled, [[] for _ in by_labels]))  # fmt: skip


def concept_proposals(scores: ConceptScores) -> list[NameProposal]:
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
        NameProposal(
            latent, "concept", 0, scores.concepts.names[c], float(discovery[latent, c]),
            float(max(test[latent, c], 0.0)), float(scores.p[latent, c]),
            float(scores.q[latent, c]),
        )
        for latent, c in enumerate(best)
        if discovery[latent, c] > 0
    ]  # fmt: skip


def _above(
    f1: Float[np.ndarray, "s c"], chance: Float[np.ndarray, " c"]
) -> Float[np.ndarray, "s c"]:
    return (f1 - chance) / np.maximum(1 - chance, 1e-9)


def _tree_scores(
    tree: Tree, columns: Columns, seen: list[list[int]]
) -> tuple[Float[np.ndarray, "k n"], list[str], Float[np.ndarray, "v n"]]:
    """For every latent the deepest inner node that holds 90 % of what the strongest images show and
    its share; the nodes; and which columns stand under which node."""
    known = [v for v, name in enumerate(columns.names) if name in tree.parent]
    voted = vote(columns.presence_bv, seen)
    nodes = sorted({node for v in known for node in tree.path(columns.names[v])[1:-1]})
    number = {node: index for index, node in enumerate(nodes)}
    under = np.zeros((len(columns.names), len(nodes)))
    for v in known:
        for node in tree.path(columns.names[v])[1:-1]:
            under[v, number[node]] = 1
    score = np.zeros((len(seen), len(nodes)))
    for row in range(len(seen)):
        mass = {columns.names[v]: float(voted[row, v]) for v in known if voted[row, v] > 1e-4}
        held = back_off(mass, tree) if mass else None
        if held is not None and held[0] in number:
            score[row, number[held[0]]] = held[1]
    return score, nodes, under


def text_similarity(
    store: CodeStore,
    latents: Int[np.ndarray, " k"],
    seen: Bool[np.ndarray, " b"],
    similarity_bv: Float[np.ndarray, "b v"],
) -> Float[np.ndarray, "k v"]:
    """:func:`weighted_similarity` over the images that are ``seen``, a range of latents at a time."""
    rows = []
    for first, last in store.chunks():
        codes = store.image_codes(first, last)
        shape = (last - first, len(seen))
        matrix = sparse.csr_matrix(
            (codes.max * seen[codes.image], (codes.latent - first, codes.image)), shape=shape
        )
        rows.append(weighted_similarity(matrix, similarity_bv))
    return np.concatenate(rows)[latents]


def _pixels(images: ImageList, index: int, backbone: Backbone) -> Tensor:
    name, item = images.entries[index]
    return backbone.transform(images.sources[name].load(item))
