"""The grid of heads: each member as if trained alone, absent classes, standardisation, choice."""

import math
import warnings

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.features import FeatureBatch
from datamodules.features.module import LabelledRows, _loader, _Rounds
from saev.backbones import load_backbone
from saev.errors import UserError
from saev.training.head_module import GridMember, ProbeTraining, SegmentationTraining


class Rows(L.LightningDataModule):
    def __init__(self, rows: Tensor, labels: Tensor, selects: Tensor) -> None:
        super().__init__()
        self.data = LabelledRows(rows, labels, selects)

    def train_dataloader(self) -> DataLoader[FeatureBatch]:
        return _loader(self.data, _Rounds(len(self.data), 16, seed=0))

    def val_dataloader(self) -> DataLoader[FeatureBatch]:
        return _loader(self.data, [self.data.selects.nonzero()[:, 0].tolist()])


def clusters(width: int, classes: list[int], n: int = 30) -> Rows:
    """Points around a centre per class, far from the origin and on very different scales."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor(classes).repeat_interleave(n)
    centres = torch.randn(max(classes) + 1, width, generator=generator) * 2
    rows = centres[labels] + 0.5 * torch.randn(len(labels), width, generator=generator)
    rows = rows * torch.logspace(-2, 2, width) + 100
    selects = torch.arange(len(labels)) % 5 == 0
    return Rows(rows, labels, selects)


def fit(module, data: Rows, steps: int = 60):
    module.set_statistics(data.data.rows)
    trainer = L.Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        val_check_interval=steps, check_val_every_n_epoch=None,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on workers; rows are in memory
        trainer.fit(module, datamodule=data)
        trainer.validate(module, datamodule=data, verbose=False)
    return module


def test_members_are_as_if_trained_alone() -> None:
    data = clusters(6, [0, 1, 2])
    together = fit(ProbeTraining(6, 3, "class", [1e-3, 1e-2], [0.0, 1.0]), data, 20)
    for number, (lr, decay) in enumerate(together.grid):
        alone = fit(ProbeTraining(6, 3, "class", [lr], [decay]), data, 20)
        for half in range(2):  # the one that is judged, the one that is kept
            torch.testing.assert_close(together.weights[4 * half + number], alone.weights[half])
            torch.testing.assert_close(together.biases[4 * half + number], alone.biases[half])
        assert together.members[number].score == alone.members[0].score


def test_judged_heads_never_learn_from_the_rows_that_judge() -> None:
    data, spoiled = clusters(6, [0, 1, 2]), clusters(6, [0, 1, 2])
    spoiled.data.labels = torch.where(
        spoiled.data.selects, (spoiled.data.labels + 1) % 3, spoiled.data.labels
    )
    one = fit(ProbeTraining(6, 3, "class", [1e-2], [0.0]), data)
    two = fit(ProbeTraining(6, 3, "class", [1e-2], [0.0]), spoiled)
    assert torch.equal(one.weights[0], two.weights[0])
    assert not torch.equal(one.weights[1], two.weights[1])
    assert one.members[0].score == 1.0 and two.members[0].score == 0.0


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("timm", "micro", "embedded")


def test_an_absent_class_shifts_no_other(backbone) -> None:
    """Classes 0, 2 and 4 of five have examples: predictions are 0, 2 and 4, not 0, 1 and 2."""
    data = clusters(backbone.width, [0, 2, 4])
    module = fit(ProbeTraining(backbone.width, 5, "class", [1e-2], [0.0]), data)
    head = module.export(backbone, list("abcde"), {})
    predicted = head.of_rows(data.data.rows[:, None]).argmax(1)
    assert torch.equal(predicted, data.data.labels)
    assert module.members[0].score == 1.0 and head.class_names == list("abcde")


def test_export_answers_as_the_module_does(backbone) -> None:
    data = clusters(backbone.width, [0, 1])
    data.data.rows[:, 3] = 7.0  # a constant dimension must not divide by zero
    module = fit(ProbeTraining(backbone.width, 2, "class", [1e-2, 1e-3], [0.1]), data)
    head = module.export(backbone, ["a", "b"], {"n_steps": 60})
    inside = module(data.data.rows)[len(module.grid) + module.best]
    torch.testing.assert_close(head.of_rows(data.data.rows[:, None]), inside, rtol=1e-3, atol=1e-3)
    assert head.recipe["learning_rate"] == module.members[module.best].learning_rate


def test_chooses_by_cross_entropy_and_never_a_diverged_one() -> None:
    module = SegmentationTraining(4, 2, [1e-2], [0.0, 0.1, 1.0])
    module.members = [
        GridMember(1e-2, 0.0, 0.9, 0.5), GridMember(1e-2, 0.1, 0.8, 0.3),
        GridMember(1e-2, 1.0, math.nan, math.nan),
    ]  # fmt: skip
    assert module.best == 1
    module.members = module.members[2:]
    with pytest.raises(UserError, match=r"diverged; lower model\.learning_rates"):
        _ = module.best


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": "patches"}, "model.features"),
        ({"learning_rates": []}, "model.learning_rates"),
        ({"learning_rates": [-1.0]}, "model.learning_rates"),
        ({"weight_decays": [-0.1]}, "model.weight_decays"),
        ({"n_classes": 1}, "two classes"),
    ],
)
def test_refuses_arguments(change: dict, message: str) -> None:
    good = {
        "n_features": 4, "n_classes": 3, "features": "class",
        "learning_rates": [1e-3], "weight_decays": [0.0],
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        ProbeTraining(**{**good, **change})
