"""Names for latents: scores of candidates, evidence on held-out images, and when to give none.

A *column* is a candidate name whose presence in every image is known as a number: the probability
that the model's own head gives a class, or the similarity of an image to a text. Proposers rank
columns for each latent on the images of the discovery and calibration splits; :func:`verify_names` then
looks at the latent's strongest images of the test split.

Suffixes: s latents, v columns (candidate names), b images, n images per latent.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from saev.stats.correction import benjamini_hochberg
from saev.stats.tests import rank_p

N_TOP = 8
"""Strongest images that vote."""
N_DRAWS = 4999
"""Of random images: the least p, 0.0002, must stand out among the proposals of thousands of latents."""
ROUNDING = 1e-12
"""Means of the same numbers in another order differ by less."""


@dataclass(frozen=True)
class NameProposal:
    """One candidate name of one latent."""

    latent: int
    proposer: str
    rank: int
    """0 is the proposer's first choice."""
    name: str
    score: float
    """In the proposer's own units."""
    confidence: float
    """0 to 1, from images that did not propose it; nan where there is no such evidence."""
    p: float
    """Chance of as much evidence for a wrong name; nan without evidence."""
    q: float
    """Share of false names expected among those with as much evidence; nan without evidence."""


def vote(presence_bv: Float[np.ndarray, "b v"], top: list[list[int]]) -> Float[np.ndarray, "s v"]:
    """Mean presence over each latent's ``N_TOP`` strongest images; 0 for a latent without any.

    Null value: the mean presence over all images.
    """
    member = _membership([row[:N_TOP] for row in top], len(presence_bv))
    return np.asarray(member @ presence_bv, float)


def weighted_similarity(
    codes_sb: sparse.csr_matrix, presence_bv: Float[np.ndarray, "b v"]
) -> Float[np.ndarray, "s v"]:
    """Σ_n a_nk P̃_nv / Σ_n a_nk, P̃ the similarity z-scored over images per column.

    Null value: 0. Centring per column takes out words that suit every picture.
    """
    z = presence_bv - presence_bv.mean(0)
    z = z / np.maximum(z.std(0), 1e-8)
    total = np.asarray(codes_sb.sum(1))
    return np.asarray(codes_sb @ z, float) / np.maximum(total, 1e-12)


def soft_wpmi(
    presence_bv: Float[np.ndarray, "b v"],
    top: list[list[int]],
    temperature: float = 10.0,
    weight: float = 1.0,
) -> Float[np.ndarray, "s v"]:
    """Σ over the strongest images of ln(1 + ρ_n (π_nv − 1)), minus λ times its log mean over latents.

    π_n = softmax over columns of ``temperature`` × presence, ρ falls from .998 to .97 with the rank.
    Null value: 0 for a latent that is like the average one. Source: Oikarinen & Weng 2023
    (CLIP-Dissect), with log-mean-exp over the latents for the prior.
    """
    logits = temperature * presence_bv
    logits = logits - logits.max(1, keepdims=True)
    pi_bv = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    scores = np.zeros((len(top), presence_bv.shape[1]))
    for latent, images in enumerate(top):
        rho = np.linspace(0.998, 0.97, max(len(images), 1))[: len(images), None]
        scores[latent] = np.log1p(rho * (pi_bv[images] - 1)).sum(0)
    fired = np.array([len(images) > 0 for images in top])
    if not fired.any():
        return scores
    largest = scores[fired].max(0)
    prior = largest + np.log(np.exp(scores[fired] - largest).mean(0))
    return np.where(fired[:, None], scores - weight * prior, 0.0)


def standardized(
    effect_sv: Float[np.ndarray, "s v"], reference_nv: Float[np.ndarray, "n v"]
) -> Float[np.ndarray, "s v"]:
    """Each column's effect in standard deviations of a reference set's effects on that column.

    Steering in almost any direction moves some classes; what all directions do says nothing of one.
    """
    spread = np.maximum(reference_nv.std(0), 1e-8)
    return (effect_sv - reference_nv.mean(0)) / spread


class NameEvidence(NamedTuple):
    """Of one name per latent, from held-out images."""

    confidence: Float[np.ndarray, " s"]
    """Mean presence of the name in the latent's strongest held-out images; nan without images."""
    p: Float[np.ndarray, " s"]
    """(1 + #{random images with as much}) / (draws + 1)."""


def verify_names(
    presence_bv: Float[np.ndarray, "b v"],
    top: list[list[int]],
    column_s: Int[np.ndarray, " s"],
    *,
    min_images: int = 3,
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> NameEvidence:
    """Is the proposed name present in the strongest held-out images, more than in random ones?

    ``presence_bv`` and ``top`` are of the held-out images; column −1 is no proposal. The null keeps
    the name and the number of images and shuffles which images the latent chose.
    """
    n = len(top)
    confidence, p = np.full(n, np.nan), np.full(n, np.nan)
    rng = np.random.default_rng(seed)
    draws = np.stack([rng.permutation(len(presence_bv))[:N_TOP] for _ in range(n_draws)])
    null: dict[tuple[int, int], np.ndarray] = {}
    for latent, (images, column) in enumerate(zip(top, column_s, strict=True)):
        m = min(len(images), N_TOP)
        if column < 0 or m < min_images:
            continue
        confidence[latent] = presence_bv[images[:m], column].mean()
        key = (int(column), m)
        if key not in null:
            null[key] = presence_bv[draws[:, :m], column].mean(1)
        p[latent] = rank_p(confidence[latent], null[key], ROUNDING)
    return NameEvidence(confidence, p)


def proposals_of(
    proposer: str,
    score_sv: Float[np.ndarray, "s v"],
    names: list[str],
    latents: Int[np.ndarray, " s"],
    presence_bv: Float[np.ndarray, "b v"],
    top: list[list[int]],
    *,
    n_best: int = 10,
    seed: int = 0,
) -> list[NameProposal]:
    """The ``n_best`` columns of each latent, the first one verified on held-out images; q is
    Benjamini–Hochberg's over these latents."""
    if not len(latents):
        return []
    order = (-score_sv).argsort(1, kind="stable")[:, :n_best]
    evidence = verify_names(presence_bv, top, order[:, 0], seed=seed)
    q = benjamini_hochberg(evidence.p)
    found = []
    for row, latent in enumerate(latents):
        for rank, column in enumerate(order[row]):
            first = rank == 0
            found.append(
                NameProposal(
                    int(latent), proposer, rank, names[column], float(score_sv[row, column]),
                    *(float(one[row]) if first else float("nan")
                      for one in (evidence.confidence, evidence.p, q)),
                )
            )  # fmt: skip
    return found


def over_proposers(
    judged: Sequence[Sequence[NameProposal]], by_labels: Sequence[Sequence[NameProposal]] = ()
) -> list[NameProposal]:
    """All proposals, q corrected for the choice among proposers.

    A latent takes the surest of its names, so all of them are one family: q is Benjamini–Hochberg's
    over latents × proposers of ``judged``. Proposals ``by_labels``, a source's concepts each, have a
    q over their concepts, and every q is multiplied by the number of families (Bonferroni), which
    keeps the expected share of false names of the union at that of one.
    """
    flat = [one for proposals in judged for one in proposals]
    families = [*by_labels, *([flat] if flat else [])]
    joint = benjamini_hochberg([one.p for one in flat])
    flat = [replace(one, q=float(q)) for one, q in zip(flat, joint, strict=True)]
    everything = [one for proposals in by_labels for one in proposals] + flat
    return [replace(one, q=float(np.minimum(1, len(families) * one.q))) for one in everything]


class Name(NamedTuple):
    """What a latent is called in the end."""

    name: str | None
    """None: unnamed, which is a valid outcome."""
    confidence: float
    proposer: str | None
    q: float


def choose_names(
    proposals: list[NameProposal],
    n_latents: int,
    *,
    fdr: float = 0.05,
    min_confidence: float = 0.3,
) -> list[Name]:
    """The most confident first choice of each latent, or none.

    A proposal counts when its q is at most ``fdr`` and its confidence at least ``min_confidence``.
    """
    best: list[Name] = [Name(None, 0.0, None, float("nan"))] * n_latents
    for one in proposals:
        if one.rank == 0 and one.q <= fdr and one.confidence >= min_confidence:
            name = Name(one.name, one.confidence, one.proposer, one.q)
            best[one.latent] = max(best[one.latent], name, key=lambda other: other.confidence)
    return best


def _membership(rows: list[list[int]], n_images: int) -> sparse.csr_matrix:
    lengths = np.array([len(row) for row in rows], int)
    indptr = np.concatenate([[0], lengths.cumsum()])
    flat = np.array([image for row in rows for image in row], int)
    weight = np.repeat(1 / np.maximum(lengths, 1), lengths)
    return sparse.csr_matrix((weight, flat, indptr), shape=(len(rows), n_images))
