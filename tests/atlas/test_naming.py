"""Proposers find planted names; evidence is held out; nothing is named without it."""

import numpy as np
import pytest
from scipy import sparse

from saev.atlas.names.naming import (
    NameProposal,
    choose_names,
    over_proposers,
    proposals_of,
    soft_wpmi,
    standardized,
    verify_names,
    vote,
    weighted_similarity,
)
from saev.stats.correction import benjamini_hochberg

NAMES = ["dog", "cat", "car", "tree"]


def world(seed: int = 0) -> tuple[np.ndarray, list[list[int]]]:
    """Probabilities of four names on 200 images, one name each, and latent k that fires on name k;
    a fifth latent fires at random."""
    rng = np.random.default_rng(seed)
    own = rng.integers(0, 4, 200)
    presence = np.full((200, 4), 0.04)
    presence[np.arange(200), own] = 0.88
    top = [(own == k).nonzero()[0][:12].tolist() for k in range(4)]
    return presence, [*top, rng.permutation(200)[:12].tolist()]


def test_vote_is_the_mean_over_the_strongest_eight() -> None:
    presence, top = world()
    score = vote(presence, [*top, []])
    np.testing.assert_allclose(score[0], presence[top[0][:8]].mean(0))
    assert score[:4].argmax(1).tolist() == [0, 1, 2, 3]
    assert score[-1].tolist() == [0, 0, 0, 0], "a latent without images votes for nothing"


def test_weighted_similarity_is_centred_per_name() -> None:
    presence, top = world()
    presence[:, 2] += 10  # a word that suits every picture
    codes = np.zeros((5, 200))
    for latent, rows in enumerate(top):
        codes[latent, rows] = 1
    score = weighted_similarity(sparse.csr_matrix(codes), presence)
    assert score[:4].argmax(1).tolist() == [0, 1, 2, 3]
    assert abs(score[4]).max() < score[0, 0] / 2
    uniform = weighted_similarity(sparse.csr_matrix(np.ones((1, 200))), presence)
    np.testing.assert_allclose(uniform, 0, atol=1e-9)


def test_soft_wpmi_finds_the_names_and_divides_by_the_prior() -> None:
    presence, top = world()
    score = soft_wpmi(presence, [*top, []])
    assert score[:4].argmax(1).tolist() == [0, 1, 2, 3]
    same = soft_wpmi(presence, [top[0], top[0]])
    np.testing.assert_allclose(same, 0, atol=1e-9)
    assert (score[-1] == 0).all()


def test_standardized_takes_out_what_every_direction_does() -> None:
    effect = np.array([[5.0, 1.0], [5.0, 0.0], [5.2, 0.1]])
    z = standardized(effect, effect)
    assert z[0].argmax() == 1
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-9)


def test_true_names_have_evidence_and_random_latents_uniform_p() -> None:
    presence, top = world()
    evidence = verify_names(presence, top[:4], np.arange(4), n_draws=499)
    assert (evidence.confidence > 0.8).all()
    assert (evidence.p < 0.01).all()
    rng = np.random.default_rng(3)
    random = [rng.permutation(200)[:8].tolist() for _ in range(300)]
    p = verify_names(presence, random, rng.integers(0, 4, 300), n_draws=499).p
    assert (p <= 0.05).mean() < 0.09
    assert 0.4 < p.mean() < 0.7  # above a half: ties count for the null


def test_no_evidence_without_enough_images() -> None:
    presence, top = world()
    evidence = verify_names(presence, [top[0][:2], top[0]], np.array([0, -1]))
    assert np.isnan(evidence.p).all()


def test_random_latent_stays_unnamed() -> None:
    presence, top = world()
    score = vote(presence, top)
    found = proposals_of("vote", score, NAMES, np.arange(5), presence, top)
    names = choose_names(found, 6)
    assert [name.name for name in names[:4]] == NAMES
    assert names[4].name is None and names[5].name is None
    assert names[5].confidence == 0


def test_most_confident_first_choice_wins() -> None:
    def proposal(proposer: str, name: str, rank: int, confidence: float, q: float) -> NameProposal:
        return NameProposal(0, proposer, rank, name, 1.0, confidence, q, q)

    proposals = [
        proposal("vote", "cat", 0, 0.6, 0.01),
        proposal("effect", "dog", 0, 0.8, 0.04),
        proposal("effect", "owl", 1, 0.99, 0.0),  # not a first choice
        proposal("text", "car", 0, 0.9, 0.2),  # not significant
        proposal("wpmi", "hat", 0, float("nan"), float("nan")),
    ]
    assert choose_names(proposals, 1)[0].name == "dog"
    assert choose_names(proposals, 1, min_confidence=0.85)[0].name is None


def null_proposals(rng: np.random.Generator, proposer: str, n_latents: int) -> list[NameProposal]:
    """One per latent, with uniform p and the q of its own proposer."""
    p = rng.random(n_latents)
    q = benjamini_hochberg(p)
    return [
        NameProposal(k, proposer, 0, "dog", 1.0, 0.9, float(p[k]), float(q[k]))
        for k in range(n_latents)
    ]


@pytest.mark.slow
def test_the_surest_of_several_proposers_is_as_rarely_wrong_as_one() -> None:
    """No latent means anything: worlds in which any latent is named, of 600."""
    rng = np.random.default_rng(0)
    named = {"alone": 0, "joint": 0}
    for _ in range(600):
        judged = [null_proposals(rng, str(j), 10) for j in range(5)]
        by_labels = [null_proposals(rng, "concept", 10)]
        one_by_one = [one for proposals in judged + by_labels for one in proposals]
        for key, found in (("alone", one_by_one), ("joint", over_proposers(judged, by_labels))):
            assert len(found) == 60
            named[key] += any(name.name for name in choose_names(found, 10))
    assert named["alone"] / 600 > 0.2, "each at 5 % of its own"
    assert named["joint"] / 600 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 600)


def test_one_proposer_is_not_corrected_and_no_evidence_stays_none() -> None:
    presence, top = world()
    found = proposals_of("vote", vote(presence, top), NAMES, np.arange(5), presence, top)
    again = over_proposers([found])
    np.testing.assert_array_equal([one.q for one in again], [one.q for one in found])
    assert any(np.isnan(one.q) for one in again)
    twice = over_proposers([found], [[]])
    known = [one.q for one in found if one.rank == 0]
    np.testing.assert_allclose(
        [one.q for one in twice if one.rank == 0], np.minimum(1, 2 * np.array(known))
    )


@pytest.mark.parametrize("n", [0, 3])
def test_as_many_proposals_as_asked(n: int) -> None:
    presence, top = world()
    found = proposals_of(
        "vote", vote(presence, top)[:n], NAMES, np.arange(n), presence, top[:n], n_best=2
    )
    assert len(found) == 2 * n
