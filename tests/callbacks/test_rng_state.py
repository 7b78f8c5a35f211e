import random
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch

from callbacks.rng_state import RngState
from tests.fakes.planted import LIGHTNING_WARNINGS, make_module

pytestmark = LIGHTNING_WARNINGS


def draw() -> tuple[float, float, float, float]:
    return random.gauss(), random.random(), float(np.random.normal()), float(torch.rand(()))


@pytest.mark.parametrize("warm_up", [0, 1])  # gauss draws come in pairs, the second is kept
def test_draws_continue_where_they_were_saved(tmp_path: Path, warm_up: int) -> None:
    for _ in range(warm_up):
        draw()
    torch.save(RngState().state_dict(), tmp_path / "state")
    expected = [draw() for _ in range(3)]
    L.seed_everything(99)
    callback = RngState()
    callback.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    trainer, module = L.Trainer(accelerator="cpu", logger=False), make_module()
    draw()  # what happens before the first batch does not matter
    callback.on_train_batch_start(trainer, module, None, 0)
    assert [draw() for _ in range(3)] == expected
    callback.on_train_batch_start(trainer, module, None, 1)
    assert draw() not in expected


def test_a_checkpoint_written_before_the_first_batch_holds_what_was_loaded() -> None:
    saved = RngState().state_dict()
    draw()
    callback = RngState()
    callback.load_state_dict(saved)
    assert torch.equal(callback.state_dict()["torch"], saved["torch"])


def test_without_a_checkpoint_nothing_is_put_back() -> None:
    callback = RngState()
    trainer, module = L.Trainer(accelerator="cpu", logger=False), make_module()
    callback.state_dict()
    draw()
    state = torch.get_rng_state()
    callback.on_train_batch_start(trainer, module, None, 0)
    assert torch.equal(torch.get_rng_state(), state)
