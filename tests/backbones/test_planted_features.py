"""Features planted in a backbone: when they fire, what they add, and that taps and edits see it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from saev.backbones import Backbone, load_backbone
from saev.backbones.planted_features import PlantedFeatures, plant
from saev.recording.record_activations import record_activations
from saev.recording.request import RecordingRequest
from tests.fakes.images import TinyImages

LAYER = 2


@pytest.fixture(scope="module")
def micro() -> Backbone:
    return load_backbone("micro", layer=LAYER)


def pictures(n: int, backbone: Backbone) -> Tensor:
    return torch.randn(n, 3, *backbone.image_size, generator=torch.Generator().manual_seed(0))


def test_features_fire_as_often_and_as_often_together_as_they_are_said_to() -> None:
    features = PlantedFeatures.draw(6, 16, 1.0, rates=(0.01, 0.2))
    strengths = features.strengths(torch.randn(40, 3, 4, 4), 500)
    on = strengths.reshape(-1, 6) > 0
    n = len(on)
    assert np.abs(on.mean(0) - features.rates) == pytest.approx(
        np.zeros(6), abs=4 * np.sqrt(0.2 / n)
    )
    for companion, leader in ((1, 0), (3, 2), (5, 4)):
        assert on[on[:, leader], companion].mean() == pytest.approx(0.5, abs=0.12)
    strangers = on[:, 3] & on[:, 4]
    assert strangers.mean() == pytest.approx(features.rates[3] * features.rates[4], rel=0.4)
    amounts = strengths[strengths > 0]
    assert np.median(amounts) == pytest.approx(1, rel=0.02)


def test_a_picture_has_its_features_alone_and_in_any_batch() -> None:
    features = PlantedFeatures.draw(4, 16, 1.0, rates=(0.1, 0.3))
    images = torch.randn(5, 3, 4, 4)
    together = features.strengths(images, 50)
    assert np.array_equal(together[3:4], features.strengths(images[3:4], 50))
    assert np.array_equal(together, features.longer(7.0).without([1]).strengths(images, 50))
    assert not np.array_equal(together[0], together[1])
    assert not np.array_equal(together, replace(features, seed=1).strengths(images, 50))


def test_the_tap_holds_the_clean_tokens_and_what_was_added_to_patches(micro: Backbone) -> None:
    features = PlantedFeatures.draw(4, micro.width, 3.0, rates=(0.1, 0.3))
    planted, images = plant(micro, features), pictures(3, micro)
    assert planted.layer == LAYER
    added = features.added(features.strengths(images, micro.n_tokens - micro.n_prefix))
    clean = micro.tap(images, [LAYER - 1, LAYER])
    found = planted.tap(images, [LAYER - 1, LAYER])
    assert torch.equal(found[LAYER - 1], clean[LAYER - 1])
    assert torch.equal(found[LAYER][:, : micro.n_prefix], clean[LAYER][:, : micro.n_prefix])
    assert torch.equal(found[LAYER][:, micro.n_prefix :], clean[LAYER][:, micro.n_prefix :] + added)
    assert float(added.norm(dim=-1).max()) > 2
    assert not torch.equal(planted(images).tokens, micro(images).tokens)


def test_the_model_runs_on_from_a_tap_and_nothing_is_planted_twice(micro: Backbone) -> None:
    planted = plant(micro, PlantedFeatures.draw(4, micro.width, 3.0, rates=(0.1, 0.3)))
    images = pictures(2, micro)
    acts = planted.tap(images)[LAYER]
    whole = planted(images)
    assert torch.equal(planted.resume(acts, LAYER).tokens, whole.tokens)
    assert torch.equal(micro.resume(acts, LAYER).tokens, whole.tokens)
    same = planted(images, {LAYER: lambda x: x})
    assert torch.equal(same.tokens, whole.tokens)


def test_features_of_no_length_change_nothing(micro: Backbone) -> None:
    features = PlantedFeatures.draw(4, micro.width, 3.0).without([0, 1, 2, 3])
    images = pictures(2, micro)
    assert torch.equal(plant(micro, features)(images).tokens, micro(images).tokens)


def test_other_features_are_another_model(micro: Backbone) -> None:
    features = PlantedFeatures.draw(4, micro.width, 3.0)
    first, second = plant(micro, features), plant(micro, features.longer(2.0))
    assert first.weights["sha256"] == plant(micro, features).weights["sha256"]
    assert len({one.weights["sha256"] for one in (micro, first, second)}) == 3
    asked = [RecordingRequest.of(one, TinyImages()).id(LAYER) for one in (first, second)]
    assert asked[0] != asked[1]


def test_a_planted_backbone_is_recorded_like_any(micro: Backbone, tmp_path) -> None:
    from saev.backbones.transform import to_picture

    features = PlantedFeatures.draw(4, micro.width, 3.0, rates=(0.1, 0.3))
    planted, source = plant(micro, features), TinyImages(6)
    recording = record_activations(
        planted, source, root=tmp_path, dtype="float32", num_workers=0, progress=False
    )
    manifest = recording.manifest
    assert manifest.layer == LAYER and manifest.backbone["weights"] == planted.weights
    images = torch.stack([micro.transform(source.load(item)) for item in source.split("train")])
    expected = planted.tap(images)[LAYER][:, micro.n_prefix :]
    assert manifest.statistics.n_tokens == expected.shape[0] * expected.shape[1]
    mean = torch.tensor(manifest.statistics.mean)
    assert torch.allclose(expected.mean((0, 1)), mean, atol=1e-3)
    assert to_picture(images[0], micro.mean, micro.std).shape[2] == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"directions": torch.ones(4, 16)}, "not 1"),
        ({"rates": np.array([0.1, 0.2, 0.3, 1.0])}, "below 1"),
        ({"rates": np.array([0.4, 0.1, 0.3, 0.4])}, "rarer than what it shares"),
    ],
)
def test_impossible_features_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PlantedFeatures.draw(4, 16, 1.0), **change)


def test_features_of_another_width_or_an_odd_number_are_refused(micro: Backbone) -> None:
    with pytest.raises(ValueError, match="wide"):
        plant(micro, PlantedFeatures.draw(4, micro.width + 1, 1.0))
    with pytest.raises(ValueError, match="even"):
        PlantedFeatures.draw(5, 16, 1.0)
