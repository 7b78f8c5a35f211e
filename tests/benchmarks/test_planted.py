"""Planted truth in small: the micro ViT on scenes; ``benchmarks/planted.py`` is the full size."""

import numpy as np
import pytest
import torch

from benchmarks.planted import (
    MIDDLE,
    Tokens,
    World,
    detector,
    fit,
    interval,
    make_world,
    row,
    score,
)
from benchmarks.planted_causes import causes
from benchmarks.planted_readers import Sizes, as_mask, labels_of, make_readers
from benchmarks.planted_tables import causes_table, share, strength_table
from datamodules.images import ScenesImages
from datamodules.patches import IGNORE, majority_with_share
from datamodules.progress import progress_bars
from saev import load_backbone
from saev.sae.baselines import fit_baseline
from tests.fakes.planted import LIGHTNING_WARNINGS

pytestmark = LIGHTNING_WARNINGS
STRENGTH = 1.6


@pytest.fixture(scope="module")
def small() -> World:
    with progress_bars(False):
        backbone = load_backbone("micro", layer=3)
        return make_world(backbone, ScenesImages(120, seed=5), 8, rates=(0.02, 0.1))


def test_a_patch_has_the_class_of_the_one_feature_that_is_read() -> None:
    strengths = np.array([[[0, 0, 0], [1, 1, 0], [0, 1, 0], [1, 0, 2], [0, 0, 2.0]]])
    assert labels_of(strengths, [0, 2]).tolist() == [[0, 1, 0, IGNORE, 2]]


def test_a_mask_gives_each_patch_its_class_back() -> None:
    backbone = load_backbone("micro")
    n_patches = backbone.grid[0] * backbone.grid[1]
    label_p = np.random.default_rng(0).integers(0, 5, n_patches)
    mask = backbone.mask_transform(as_mask(label_p, backbone)).numpy()
    found, share = majority_with_share(mask, backbone.grid, 5)
    assert np.array_equal(found, label_p) and (share == 1).all()


def test_intervals_are_over_features_and_hold_the_mean() -> None:
    assert interval([1.0, 1.0, 1.0]) == (1.0, 1.0, 1.0)
    mean, low, high = interval(np.array([[1, 0, 1, 0], [1, 0, 1, 1.0]]))
    assert mean == 0.625 and low < mean < high


def test_planted_tokens_are_the_clean_ones_and_what_is_added() -> None:
    from saev.backbones.planted_features import PlantedFeatures

    features = PlantedFeatures.draw(2, 4, 3.0)
    tokens = Tokens(torch.zeros(3, 4).half(), np.array([[0, 0], [1, 0], [0.5, 2]], np.float32))
    first, second = features.directions * 3
    expected = torch.stack([0 * first, first, 0.5 * first + 2 * second])
    assert torch.allclose(tokens.planted(features), expected)
    assert len(tokens.first(2).strengths) == 2


@pytest.mark.slow
def test_a_trained_dictionary_recovers_what_acts_and_its_verdicts_are_right(small: World) -> None:
    ceiling = detector(small, STRENGTH)
    assert ceiling.f1.mean() > 0.9
    sae = fit(small, "topk", STRENGTH, 0, n_steps=300, batch_size=512, expansion=4, k=16)
    assert sae.cfg.layer == 3
    found = score(sae, small, STRENGTH)
    trained = row("topk", STRENGTH, [found])
    untrained = fit_baseline("untrained", sae, small.train.first(4000).clean.float())
    chance = row("untrained", STRENGTH, [score(untrained, small, STRENGTH)])
    assert trained["recovered"][0] >= 0.9 and chance["recovered"][0] <= 0.25
    assert trained["f1"] > chance["f1"] + 0.15
    assert trained["silent"] < chance["silent"]

    readers = make_readers(small, STRENGTH, Sizes(48, 24, 10))
    caused = causes(sae, found, small, readers)
    assert caused["n_true"] >= 3 and caused["n_supported_true"] >= 2
    assert caused["named_a_carrier"] >= 3
    assert caused["least_effect_read"] > 0.8 and caused["most_effect_unread"] < 0.2
    assert caused["n_supported_false"] == 0


def test_tables_sum_verdicts_over_seeds_and_give_intervals() -> None:
    one = {"dictionary": "topk", "strength": MIDDLE, "n_named": 4, "named_a_carrier": 4,
           "named_the_best": 2, "n_true": 4, "n_supported_true": 3, "n_supported_other_latent": 1,
           "n_false": 4, "n_supported_false": 1}  # fmt: skip
    text = causes_table([one, one])
    assert "0.60 [0.26, 0.88] (6 of 10)" in text  # precision: 6 right of 6 + 2 + 2 supported
    assert "0.75 [0.35, 0.97] (6 of 8)" in text
    assert share(0, 0) == "–"
    row = "| 0.90 / 0.95 | – |"
    lines = [{"dictionary": "topk", "strength": 0.3, "recovered": [0.9, 0.8, 1.0], "f1": 0.95},
             {"dictionary": "raw", "strength": 0.5, "recovered": [0, 0, 0], "f1": 0.1}]  # fmt: skip
    assert row in strength_table(lines, ["topk"])
