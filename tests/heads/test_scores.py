"""Scores of heads against slow counting and against torchmetrics."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from saev.backbones import load_backbone
from saev.heads import Reading, TrainedHead, backbone_identity
from saev.heads.scores import ClassificationScores, SegmentationScores, shares_of


def confusion_of(labels: list[int], predicted: list[int], n_classes: int) -> torch.Tensor:
    counts = torch.zeros(n_classes, n_classes, dtype=torch.long)
    for label, guess in zip(labels, predicted, strict=True):
        counts[label, guess] += 1
    return counts


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40))
def test_shares_equal_torchmetrics_and_counting(pairs: list[tuple[int, int]]) -> None:
    labels, predicted = [a for a, _ in pairs], [b for _, b in pairs]
    shares = shares_of(confusion_of(labels, predicted, 6))
    target, preds = torch.tensor(labels), torch.tensor(predicted)
    accuracy = MulticlassAccuracy(6, average="micro")(preds, target)
    jaccard = MulticlassJaccardIndex(6, ignore_index=255)(preds, target)
    assert shares.accuracy == pytest.approx(float(accuracy))
    assert shares.mean_iou == pytest.approx(float(jaccard), rel=1e-5)
    for k in range(6):
        own = [i for i, label in enumerate(labels) if label == k]
        said = [i for i, guess in enumerate(predicted) if guess == k]
        union = set(own) | set(said)
        found = float(shares.iou[k])
        if union:
            assert found == pytest.approx(len(set(own) & set(said)) / len(union))
        else:
            assert math.isnan(found)  # absent is not 0
        share = float(shares.accuracy_per_class[k])
        assert (
            math.isnan(share)
            if not own
            else share == pytest.approx(sum(predicted[i] == k for i in own) / len(own))
        )


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("timm", "micro", "embedded")


def head_of(backbone, kind: str, features: str, names: list[str]) -> TrainedHead:
    weight = torch.zeros(len(names), backbone.width)
    reading = Reading.of(features, backbone)
    return TrainedHead(kind, reading, names, backbone_identity(backbone), weight)


def test_classification_by_hand(backbone) -> None:
    scores = ClassificationScores(head_of(backbone, "classification", "class", ["a", "b/c", "d"]))
    assert scores.compute() == {}
    # probabilities 0.8 | 0.1 | 0.1 for the class that is said
    logits = torch.full((4, 3), 0.1).log()
    said = torch.tensor([0, 0, 1, 1])
    logits[torch.arange(4), said] = math.log(0.8)
    scores.update(logits[:3], torch.tensor([0, 1, 1]))
    scores.update(logits[3:], torch.tensor([-1]))  # no label: left out
    values = scores.compute()
    assert values["accuracy"] == pytest.approx(2 / 3)
    assert values["ece"] == pytest.approx(0.8 - 2 / 3, abs=1e-6)
    assert values["cross_entropy"] == pytest.approx(-(2 * math.log(0.8) + math.log(0.1)) / 3)
    assert values["accuracy/a"] == 1.0 and values["accuracy/b-c"] == 0.5
    assert math.isnan(values["accuracy/d"])


def test_segmentation_leaves_out_ignored_pixels(backbone) -> None:
    scores = SegmentationScores(head_of(backbone, "segmentation", "patches", ["a", "b", "c"]))
    logits = torch.zeros(1, 3, 2, 2)
    logits[0, 1, :, 1] = 5.0  # right half "b", left half "a" (the first of equals)
    logits[0, 0, :, 0] = 5.0
    masks = torch.tensor([[[0, 255, 1, 1], [0, 255, 1, 255], [0, 0, 1, 1], [1, 255, 1, 1]]])
    patches = torch.tensor([[[0, 1], [0, 255]]])
    scores.update(logits, masks, patches)
    values = scores.compute()
    # "a": 4 of 4 labelled pixels and one wrong; "b": 7 right, one missed; "c" does not occur
    assert values["iou/a"] == pytest.approx(4 / 5) and values["iou/b"] == pytest.approx(7 / 8)
    assert math.isnan(values["iou/c"])
    assert values["miou"] == pytest.approx((4 / 5 + 7 / 8) / 2)
    assert values["pixel_accuracy"] == pytest.approx(11 / 12)
    assert values["patch_accuracy"] == values["patch_miou"] == 1.0
