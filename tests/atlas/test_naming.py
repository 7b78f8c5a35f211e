"""Proposers find planted names; evidence is held out; nothing is named without it."""

import numpy as np
import pytest
from scipy import sparse

from saev.atlas.names.naming import (
    NameProposal,
    choose_names,
    proposals_of,
    soft_wpmi,
    standardized,
    verify_names,
    vote,
    weighted_similarity,
)

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
        return NameProposal(0, proposer, rank, name, 1.0, confidence, q)

    proposals = [
        proposal("vote", "cat", 0, 0.6, 0.01),
        proposal("effect", "dog", 0, 0.8, 0.04),
        proposal("effect", "owl", 1, 0.99, 0.0),  # not a first choice
        proposal("text", "car", 0, 0.9, 0.2),  # not significant
        proposal("wpmi", "hat", 0, float("nan"), float("nan")),
    ]
    assert choose_names(proposals, 1)[0].name == "dog"
    assert choose_names(proposals, 1, min_confidence=0.85)[0].name is None


@pytest.mark.parametrize("n", [0, 3])
def test_as_many_proposals_as_asked(n: int) -> None:
    presence, top = world()
    found = proposals_of(
        "vote", vote(presence, top)[:n], NAMES, np.arange(n), presence, top[:n], n_best=2
    )
    assert len(found) == 2 * n
