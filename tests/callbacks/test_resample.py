import functools
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from callbacks.resample import ResampleDeadLatents
from saev.sae.objectives import L1Penalty
from saev.training.sae_module import SAETraining
from tests.fakes.planted import LIGHTNING_WARNINGS, Recorder, activations, fit, make_module

pytestmark = LIGHTNING_WARNINGS
ILL = torch.arange(0, 64, 4)
RELU = {"activation": "relu", "k": None, "objective": L1Penalty(0.3)}


def sick_module(data: Tensor, **kwargs: Any) -> SAETraining:
    """A quarter of the latents can never fire on their own."""
    module = make_module(data, **kwargs)
    with torch.no_grad():
        module.sae.b_enc[ILL] = -10.0
    return module


@pytest.mark.slow
@pytest.mark.parametrize("kwargs", [{}, {**RELU, "lr": 1e-2}])
def test_sunk_latents_come_back(kwargs: dict) -> None:
    data = activations(64 * 400)
    module = sick_module(data, **kwargs)
    resample = ResampleDeadLatents(2560, dead_after_tokens=640, n_times=4, pool_tokens=1000)
    logger = Recorder()
    fit(module, data, callbacks=[resample], logger=logger)
    alive = (module.sae.encode(data[-4000:]) > 0).any(0)
    assert alive[ILL].float().mean() >= 0.9
    assert resample.n_events == 4
    resampled = logger.column("train/resampled")
    # The first event is at step 40.
    assert resampled[0] == 0 and resampled[3] >= 16 and resampled[-1] == resample.n_resampled


class Watch(L.Callback):
    """Notes the weights before and after a step; stands before or after another callback."""

    def __init__(self) -> None:
        self.seen: dict[int, Tensor] = {}

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        self.seen[trainer.global_step] = pl_module.sae.W_dec.detach().clone()


def test_events_are_counted_in_tokens_and_change_only_dead_latents() -> None:
    for batch_size in (32, 64):
        data = activations(640)
        before, after = Watch(), Watch()
        resample = ResampleDeadLatents(256, dead_after_tokens=128, pool_tokens=64, n_times=2)
        module = sick_module(data, lr=1e-6)
        fit(module, data, batch_size, callbacks=[before, resample, after])
        changed = {
            step * batch_size: (before.seen[step] != after.seen[step]).any(1)
            for step in before.seen
        }
        at = [tokens for tokens, rows in changed.items() if rows.any()]
        assert at[0] == 256 and set(at) <= {256, 512} and resample.n_events == 2
        assert bool(changed[256][ILL].all()) and not bool(changed[256].all())


def test_new_rows_point_at_recent_inputs_and_count_as_alive() -> None:
    data = activations(256)
    module = sick_module(data, lr=1e-6)
    resample = ResampleDeadLatents(256, dead_after_tokens=200, pool_tokens=64, n_times=1)
    fit(module, data, callbacks=[resample])
    recent = module.sae.normalize(data[-64:]) - module.sae.b_dec.detach()
    cosines = torch.nn.functional.normalize(recent, dim=1) @ module.sae.W_dec[ILL].detach().T
    torch.testing.assert_close(cosines.amax(0), torch.ones(16), atol=1e-4, rtol=0)
    assert bool((module.tokens_since_fired[ILL] == 0).all())
    assert resample._inputs == []


@pytest.mark.parametrize("stop_at", [20, 30])  # outside and inside the window before the event
def test_a_resumed_run_equals_the_undisturbed_one(tmp_path: Path, stop_at: int) -> None:
    data = activations(64 * 60)

    def callbacks() -> list[L.Callback]:
        return [
            ResampleDeadLatents(64 * 35, dead_after_tokens=640, pool_tokens=640, n_times=1),
            ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=stop_at, save_top_k=-1),
        ]

    whole = sick_module(data)
    fit(whole, data, callbacks=callbacks(), enable_checkpointing=True)
    path = tmp_path / f"step={stop_at}.ckpt"
    torch.load(path, weights_only=True)
    resumed = make_module(data)
    again = callbacks()
    settings = {"callbacks": again, "enable_checkpointing": True}
    fit(resumed, data, start=stop_at, ckpt_path=str(path), **settings)
    assert isinstance(again[0], ResampleDeadLatents) and again[0].n_resampled >= 16
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"every_n_tokens": 0}, "every_n_tokens must be at least 1"),
        ({"dead_after_tokens": 0}, "dead_after_tokens must be at least 1"),
        ({"pool_tokens": 0}, "pool_tokens must be at least 1"),
        ({"n_times": 0}, "n_times must be at least 1"),
        ({"encoder_scale": 0.0}, "encoder_scale must be positive"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict, part: str) -> None:
    make = functools.partial(
        ResampleDeadLatents, every_n_tokens=10, dead_after_tokens=10, n_times=1
    )
    with pytest.raises(ValueError, match=part):
        make(**arguments)
